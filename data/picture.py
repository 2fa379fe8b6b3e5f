"""Draw picture.png of the README from the runs of `make study`: python data/picture.py"""

from pathlib import Path

from cilkit import VOID, Study, belongs
from cilkit.explore import plots
from cilkit.training.evaluation import predict

SCENE = 15  # of the test images

study = Study("toyscapes", "data/runs", "quick", seed=0)
image, truth = study.data.test_set("T3", study.config.height, native_labels=False)[SCENE]
pictures = {}
for name in ("T1", "T2", "T3"):
    labels = truth.where(belongs(truth, study.stage(name).new), VOID)
    pictures[f"labels that stage {name} would get"] = labels
for method in ("FT", "CIL"):
    network = study.run("T3", method).network()
    pictures[f"{method} after T3"] = predict(network, image[None], study.config)[0].argmax(dim=0)
figure = plots.views(image, pictures, study.split)
figure.savefig(Path(__file__).with_name("picture.png"), dpi=90, bbox_inches="tight")
