"""Folders of runs with scores, without any training."""

import json


def write_run(path, parameters, scores):
    (path / "test").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")
    (path / "metrics.csv").write_text("epoch,step,profile/step_ms\n0,1,\n0,2,31.0\n1,3,20.5\n", encoding="utf-8")
    rows = "".join(f"case_{index},{score},{score / 2}\n" for index, score in enumerate(scores))
    (path / "test" / "cases.csv").write_text(f"subject,dice,dice_liver\n{rows}", encoding="utf-8")
    return path
