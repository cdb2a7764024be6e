"""Fits a line to ../dataset/points.csv, going on from ../modeldir/model.json where an earlier run left one."""

import csv
import json
import os
from pathlib import Path

here = Path(__file__).resolve().parent.parent
with (here / "dataset" / "points.csv").open(newline="") as file:
    points = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)]

model_file = here / "modeldir" / "model.json"
model = json.loads(model_file.read_text()) if model_file.exists() else {"slope": 0.0, "intercept": 0.0, "steps": 0}
slope, intercept = model["slope"], model["intercept"]
log = []
for step in range(int(os.environ.get("STEPS", "200"))):
    errors = [slope * x + intercept - y for x, y in points]
    slope -= 0.02 * sum(error * x for error, (x, _) in zip(errors, points, strict=True)) / len(points)
    intercept -= 0.02 * sum(errors) / len(points)
    if step % 50 == 0:
        log.append(f"step {model['steps'] + step}: loss {sum(error * error for error in errors) / len(points):.6f}")
steps = model["steps"] + int(os.environ.get("STEPS", "200"))
model_file.write_text(json.dumps({"slope": slope, "intercept": intercept, "steps": steps}) + "\n")
(here / "output" / "log.txt").write_text("\n".join(log) + "\n")
