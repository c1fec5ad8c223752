"""A tiny stand-in for the embedded engine: the same options, two pages, one token. Launched for real by the tests."""

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--port-file", type=Path)
parser.add_argument("--die-with-parent", action="store_true")
parser.add_argument("--nice", type=int)
parser.add_argument("--fail", action="store_true")
parser.add_argument("--silent", action="store_true", help="never open the port")
parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
parser.add_argument("--child-file", type=Path, help="start a child that ignores SIGTERM, and write its pid here")
options = parser.parse_args()

print("stand-in engine is starting", flush=True)
if options.fail:
    print("RuntimeError: no room for the cache", flush=True)
    sys.exit(3)
if options.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.child_file:
    sleeper = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(120)"
    child = subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE)
    child.stdout.readline()  # it ignores SIGTERM from here on
    options.child_file.write_text(str(child.pid))
if options.silent:
    signal.pause()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def _send(self, page):
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        pages = {
            "/v1/models": {"data": [{"id": "stand-in", "max_model_len": 64}]},
            "/version": {"engine": "ds4bench-embedded", "version": "0", "weights": "random"},
        }
        self._send(pages.get(self.path, {}))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send({"choices": [{}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})


server = HTTPServer((options.host, options.port), Handler)
partial = options.port_file.with_suffix(".partial")
partial.write_text(str(server.server_port))
partial.rename(options.port_file)
print(f"stand-in engine {os.getpid()} is ready", flush=True)
server.serve_forever()
