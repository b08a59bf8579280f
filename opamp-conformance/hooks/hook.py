#!/usr/bin/env python3
"""A hook for an agent: opamp-conformance client --hook './hook.py' --exec '… --state {state}' …

The agent reads STATE/config.yaml again when it gets SIGHUP. Exit status 0: done; 77: not supported.
"""
import json
import os
import signal
import sys

action = json.load(sys.stdin)
match action["hook"]:
    case "set_effective_config":
        config = action["body"]
    case "set_health" if action["healthy"]:
        config = "{}\n"
    case "set_health":
        config = "fail_with: " + json.dumps(action["last_error"] or "no reason") + "\n"
    case _:
        sys.exit(77)
with open(os.path.join(action["state"], "config.yaml"), "w") as file:
    file.write(config)
os.kill(action["pid"], signal.SIGHUP)
print(json.dumps({}))
