#!/usr/bin/env python3
"""Packs scenarios and what Linux 6.12 does with them, at level 2 of the oracle.

    convert.py ORACLE_DIR       writes scenarios.jsonl and corpus.jsonl here

ORACLE_DIR holds what the recorder made, a real Linux 6.12 with a fake PMU and a
virtual clock: it is not kept in this repository.

One line a scenario: {"scenario": {...}, "steps": [...]}; a step holds what it
returned, the clock, and the states that changed (null: closed).  Only needed
when the oracle's records change.
"""
import gzip, json, os, sys, tarfile

oracle, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
KEYS = ["ret", "pmu", "nr", "enabled", "running", "values", "cpumask", "t"]

def pack(scenario, expected):
    out, old = [], {}
    for s in expected["steps"]:
        step = {k: s[k] for k in KEYS if k in s}
        new = {n: x[:3] + x[4:5] for n, x in s["state"].items()}
        delta = {n: x for n, x in new.items() if old.get(n) != x}
        delta.update({n: None for n in old if n not in new})
        if delta: step["state"] = delta
        out.append(step)
        old = new
    scenario.pop("desc", None)
    return json.dumps({"scenario": scenario, "steps": out}, separators=(",", ":")) + "\n"

with open(here + "/scenarios.jsonl", "w") as f:
    for n in sorted(os.listdir(oracle + "/scenarios")):
        f.write(pack(json.load(open(f"{oracle}/scenarios/{n}")), json.load(open(f"{oracle}/expected/{n}"))))
with open(here + "/corpus.jsonl", "w") as f:
    files = {}
    with tarfile.open(oracle + "/corpus/scenarios.tar.gz") as t:
        for m in t:
            if m.isfile(): d = json.load(t.extractfile(m)); files[d["name"]] = d
    for l in gzip.open(oracle + "/corpus/expected.jsonl.gz", "rt"):
        e = json.loads(l)
        f.write(pack(files[e["scenario"]], e))
