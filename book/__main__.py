"""`python -m book [DATA=... RUNS=... PRESET=... SEED=...]` makes data/site of a finished study."""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat import NotebookNode
from sphinx.cmd.build import build_main

from book import pages
from cilkit.checks import unknown
from cilkit.files import ROOT, resolve

STUDY = {"DATA": "toyscapes", "RUNS": "data/runs", "PRESET": "quick", "SEED": "0"}
OTHERS = ["SEEDS", "METHODS"]
SITE = ROOT / "data" / "site"
CONTENTS = """
```{{toctree}}
:hidden:
:caption: Notebooks
:glob:

notebooks/[0-9]*
```

```{{toctree}}
:hidden:
:caption: More

{}
api/index
```
"""


def main() -> None:
    try:
        executed = find(**parse(sys.argv[1:]))
        for name in build(executed, SITE):
            print(f"{name} is not executed: on the site it has no results")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print(f"site: {SITE / 'index.html'}")


def parse(words: Sequence[str]) -> dict[str, str]:
    """The study to be shown, from the words that `make study` takes; of a list its first item.

    Raises ValueError for an unknown name.
    """
    study = dict(STUDY)
    for word in words:
        name, _, value = word.partition("=")
        if name not in (*STUDY, *OTHERS):
            raise ValueError(unknown("parameter", name, [*STUDY, *OTHERS]))
        if name != "METHODS":  # which its notebooks and tables show anyway
            shown = value if name == "RUNS" else value.split(",")[0].strip()
            study[name.replace("SEEDS", "SEED")] = shown
    return study


def find(DATA: str, RUNS: str, PRESET: str, SEED: str) -> dict[str, Path]:
    """The executed notebooks of a study by name, of two the newer one.

    Raises FileNotFoundError if there is none.
    """
    study = resolve(RUNS) / resolve(DATA).name.lower() / PRESET
    folders = [study / f"seed{SEED}" / "notebooks", study / "results"]
    files = [file for folder in folders for file in folder.glob("*.ipynb")]
    if not files:
        raise FileNotFoundError(
            f"no executed notebook in {folders[0]}; make them: "
            f"make study DATA={DATA} RUNS={RUNS} PRESET={PRESET} SEED={SEED}"
        )
    return {file.stem: file for file in sorted(files, key=lambda file: file.stat().st_mtime)}


def build(executed: Mapping[str, Path], site: Path) -> list[str]:
    """Build the site, and return the notebooks that are not among the executed ones.

    What was in the folder `site` is replaced if all went well. Raises ValueError for a notebook
    that failed, and for whatever Sphinx complains of.
    """
    with TemporaryDirectory() as folder:
        source, built = Path(folder, "source"), Path(folder, "built")
        missing = stage(executed, source)
        options = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", str(ROOT / "book")]
        if build_main([*options, "-d", str(Path(folder, "trees")), str(source), str(built)]):
            raise ValueError("the site was not built; the lines above say why")
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(built, site)
    return missing


def stage(executed: Mapping[str, Path], source: Path) -> list[str]:
    """Lay out what Sphinx reads, links and all as in the project."""
    texts = linked("README.md")
    for name in texts:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    more = [name.removesuffix(".md") for name in texts[1:] if name.endswith(".md")]
    index = (source / "README.md").rename(source / "index.md")
    with index.open("a", encoding="utf-8") as file:
        file.write(CONTENTS.format("\n".join(more)))
    (source / "api").mkdir()
    for name, text in pages.reference().items():
        (source / "api" / f"{name}.md").write_text(text, encoding="utf-8")
    (source / "notebooks").mkdir(exist_ok=True)
    names = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
    for name in names:
        file = executed.get(name)
        plain = file is None
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4) if plain else read(file)
        nbformat.write(notebook, source / "notebooks" / f"{name}.ipynb")
    return [name for name in names if name not in executed]


def linked(name: str) -> list[str]:
    """A text of the project and the other files that it links to, and those that they link to."""
    found = [name]
    for name in found:  # it grows on the way
        text = (ROOT / name).read_text(encoding="utf-8") if name.endswith(".md") else ""
        for target in re.findall(r"\]\(([^):#]+)", text):
            file = (ROOT / name).parent.joinpath(target).resolve()
            if file.is_file() and file.suffix != ".ipynb":
                here = file.relative_to(ROOT).as_posix()
                found += [here] * (here not in found)
    return found


def read(file: Path) -> NotebookNode:
    """An executed notebook, without what papermill notes about this machine.

    Raises ValueError if it failed or was stopped.
    """
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise ValueError(
                    f"{file} failed ({output.ename}: {output.evalue}); mend it, then make study"
                )
    if not pages.was_executed(notebook):
        raise ValueError(f"{file} was stopped before its end; make study executes it again")
    notebook.metadata.pop("papermill", None)
    return notebook


if __name__ == "__main__":
    main()
