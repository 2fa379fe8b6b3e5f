"""Draw picture.png of the README from the runs of `make study`: python data/picture.py"""

from pathlib import Path

from matplotlib.figure import Figure

from cilkit import VOID, Study, belongs
from cilkit.explore.plots import views
from cilkit.training.evaluation import predict

SCENE = 15  # of the test images


def picture(study: Study) -> Figure:
    """One test image: the labels that each stage would get, and what FT and CIL predict at last."""
    *_, last = study.split.stages
    test = study.data.test_set(last.name, study.config.height, native_labels=False)
    image, truth = test[SCENE]
    pictures = {}
    for stage in study.split.stages:
        labels = truth.where(belongs(truth, stage.new), VOID)
        pictures[f"labels that stage {stage.name} would get"] = labels
    for method in ("FT", "CIL"):
        network = study.run(last.name, method).network()
        logits = predict(network, image[None], study.config)[0]
        pictures[f"{method} after {last.name}"] = logits.argmax(dim=0)
    return views(image, pictures, study.split)


if __name__ == "__main__":
    file = Path(__file__).with_name("picture.png")
    figure = picture(Study("toyscapes", "data/runs", "quick", seed=0))
    figure.savefig(file, dpi=90, bbox_inches="tight")
    print(file)
