"""One run from the command line: `python -m cilkit.study T3 CIL PRESET=paper SEED=1`."""

import sys

from cilkit.checks import unknown
from cilkit.methods import trainable
from cilkit.study.parameters import parse
from cilkit.study.study import Study
from cilkit.training import distributed


def main(*given: str) -> None:
    """One run from the command line, trained or loaded, and its scores printed.

        python -m cilkit.study STAGE METHOD [DATA=... RUNS=... PRESET=... SEED=...]

    METHOD is a name of the tables, "SS", "LWM teacher", or one that came later: "ILT", "MiB",
    "PLOP". The first stage is the same for all of them. A run of T3 first trains the method's run
    of T2 if it is missing, as `Study.run` does. The four parameters are those of the notebooks,
    with the same defaults. The graph of `make study` calls this for each training; you can call it
    on a cluster, or under torchrun. A ValueError names what is wrong before anything is read.
    """
    names = [word for word in given if "=" not in word]
    parameters = parse([word for word in given if "=" in word])
    if len(names) != 2:
        raise ValueError(
            f"given {' '.join(names) or 'no stage and no method'}; wanted a stage and a method: "
            "python -m cilkit.study T3 CIL SEED=1 (quote a name with spaces: 'CIL (w/o weights)')"
        )
    stage, method = names
    if method not in (known := trainable()):
        raise ValueError(unknown("method", method, list(known)))
    study = Study(**{name.lower(): value for name, value in parameters.items()})
    run = study.run(stage, method)
    if distributed.is_rank0():
        print(run.folder, run.miou.to_string(float_format="{:.1f}".format), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
