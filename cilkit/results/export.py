"""Tables as CSV and LaTeX, figures as PNG and SVG."""

import re
from collections.abc import Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pandas.io.formats.style import Styler

from cilkit.files import write_atomic

if TYPE_CHECKING:  # a training draws nothing, and need not wait for its import
    from matplotlib.figure import Figure


def save_results(folder: Path, results: "Mapping[str, pd.DataFrame | Styler | Figure]") -> None:
    """Write tables as CSV and LaTeX (booktabs), figures as PNG and SVG, each under its name.

    Each file is replaced atomically.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        table = isinstance(result, pd.DataFrame | Styler)
        files = _table_files(result) if table else _figure_files(result)
        for suffix, content in files.items():
            write_atomic(folder / f"{name}.{suffix}", content)


def _figure_files(figure: "Figure") -> dict[str, bytes]:
    files = {}
    for suffix in ("png", "svg"):
        buffer = BytesIO()
        figure.savefig(buffer, format=suffix, bbox_inches="tight", dpi=150)
        files[suffix] = buffer.getvalue()
    return files


def _table_files(table: pd.DataFrame | Styler) -> dict[str, bytes]:
    styled = table if isinstance(table, Styler) else table.style.format(precision=1, na_rep="–")
    styled = deepcopy(styled)
    plain = styled.data
    styled.data = plain.map(
        lambda cell: cell.replace("&", r"\&") if isinstance(cell, str) else cell
    )
    latex = styled.to_latex(convert_css=True, hrules=True)
    latex = re.sub(r"(?<!\\)([_%#])", r"\\\1", latex)
    for sign, command in (("∪", r"$\cup$"), ("±", r"$\pm$"), ("–", "--"), ("…", r"\dots{}")):
        latex = latex.replace(sign, command)
    return {"csv": plain.to_csv().encode(), "tex": latex.encode()}
