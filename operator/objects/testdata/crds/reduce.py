#!/usr/bin/env python3
"""Reduces CRDs of the Gateway API to what tests need: names, annotations and the fields of the schemas.

reduce.py CONFIG_CRD_FOLDER > v1.6.3-standard.json    (the folder is config/crd/standard or experimental of a release)
"""

import json
import pathlib
import sys

import yaml

KINDS = ["gatewayclasses", "gateways", "httproutes", "referencegrants"]
KEPT = ["x-kubernetes-preserve-unknown-fields"]


def reduced(schema):
    out = {name: schema[name] for name in KEPT if name in schema}
    if "items" in schema:
        out["items"] = reduced(schema["items"])
    if "properties" in schema:
        out["properties"] = {name: reduced(of) for name, of in schema["properties"].items()}
    return out


def crd(folder, plural):
    text = (folder / f"gateway.networking.k8s.io_{plural}.yaml").read_text()
    of = yaml.safe_load(text)
    versions = [
        {
            "name": version["name"],
            "served": version["served"],
            "schema": {"openAPIV3Schema": reduced(version["schema"]["openAPIV3Schema"])},
        }
        for version in of["spec"]["versions"]
    ]
    return {
        "apiVersion": of["apiVersion"],
        "kind": of["kind"],
        "metadata": {name: of["metadata"][name] for name in ["name", "annotations"]},
        "spec": {"group": of["spec"]["group"], "names": of["spec"]["names"], "scope": of["spec"]["scope"], "versions": versions},
    }


folder = pathlib.Path(sys.argv[1])
lines = [json.dumps(crd(folder, plural), sort_keys=True, separators=(",", ":")) for plural in KINDS]
print("[" + ",\n".join(lines) + "]")
