"""Stands for an engine's process where only its life and death matter: loads, fails, dies, leaves children behind.

``python fake_engine.py BEHAVIOUR --port PORT [flags]``. The behaviour comes where an engine takes its model.
``wants-key`` asks for the key of ``--api-key`` or VLLM_API_KEY, as vLLM does, or for one from nowhere, and logs it.
With ``--headless`` it is a worker on another machine: it only lives, until the file that END_FILE names is there.
TELLS is what the plugin of each process writes as its kernel report; a worker has no folder below HEADS_OWN.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = sys.argv[1]
PORT = int(sys.argv[sys.argv.index("--port") + 1])
SLEEPER = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"

KEY = os.environ.get("VLLM_API_KEY", "of-a-config-file")
if "--api-key" in sys.argv:
    KEY = sys.argv[sys.argv.index("--api-key") + 1]

print(f"INFO loading {BEHAVIOUR}", flush=True)
if "TELLS" in os.environ and "DS4_KERNELS_REPORT" in os.environ:
    reports = Path(os.environ["DS4_KERNELS_REPORT"])
    if "--headless" not in sys.argv or not reports.is_relative_to(os.environ["HEADS_OWN"]):
        reports.mkdir(parents=True, exist_ok=True)
        told = json.loads(os.environ["TELLS"]) | {"pid": os.getpid()}
        (reports / f"ds4-kernels-vllm-{os.getpid()}.json").write_text(json.dumps(told))
if "--headless" in sys.argv:
    if BEHAVIOUR == "worker-lacks-memory":
        print("(Worker pid=7) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB", flush=True)
        sys.exit(1)
    Path(os.environ["END_FILE"]).with_name("joined").touch()
    while not Path(os.environ["END_FILE"]).exists():
        time.sleep(0.02)
    print("RuntimeError: the worker lost its GPU", flush=True)
    os._exit(7)
while "--node-rank" in sys.argv and not Path(os.environ["END_FILE"]).with_name("joined").exists():
    time.sleep(0.02)  # as an engine's head waits for its workers
if BEHAVIOUR == "wants-key":
    print(f"INFO non-default args: api_key {KEY}", flush=True)
if BEHAVIOUR == "unknown-model":
    print("ERROR x is not a local folder and is not a valid model identifier listed on the hub", flush=True)
    sys.exit(1)
if BEHAVIOUR == "out-of-memory":
    print("(Worker pid=7) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB", flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)
if BEHAVIOUR == "odd-failure":
    print("(Worker pid=7) ERROR [a.py:1] ValueError: No common block size for 16", flush=True)
    print("RuntimeError: Engine core initialization failed.", flush=True)
    sys.exit(1)
if BEHAVIOUR == "hangs":
    time.sleep(300)
if BEHAVIOUR in (
    "leaves-workers",
    "memory-in-gate",
):  # one in the group, one that has left group and session; both ignore SIGTERM
    workers = [
        subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, start_new_session=alone)
        for alone in (False, True)
    ]
    for worker in workers:
        worker.stdout.readline()
    Path(os.environ["WORKER_FILE"]).write_text(" ".join(str(worker.pid) for worker in workers))
if BEHAVIOUR == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

streams = [0]
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def _refused(self):
        if BEHAVIOUR != "wants-key" or self.headers["Authorization"] == f"Bearer {KEY}":
            return False
        self._head(401, "application/json", 2)
        self.wfile.write(b"{}")
        return True

    def do_GET(self):
        if self.path.startswith("/v1") and self._refused():
            return
        pages = {
            "/v1/models": {"data": [{"id": "fake", "owned_by": "vllm", "max_model_len": 4096}]},
            "/version": {"version": "9.9"},
            "/health": {},
        }
        body = json.dumps(pages.get(self.path)).encode()
        self._head(200 if self.path in pages else 404, "application/json", len(body))
        self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/v1") and self._refused():
            return
        if self.path == "/tokenize":
            self._json({"count": len(body["messages"][0]["content"].split())})
        elif body.get("stream"):
            self._stream(body)
        elif BEHAVIOUR == "first-token-kills":  # /health and /v1/models were fine
            print("RuntimeError: the first request broke the engine", flush=True)
            os._exit(9)
        else:
            self._json({"choices": [{}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})

    def _stream(self, body):
        with lock:
            streams[0] += 1
        if BEHAVIOUR == "dies-in-gate" and streams[0] > 5:
            print("RuntimeError: engine core died", flush=True)
            os._exit(11)
        if BEHAVIOUR == "memory-in-gate" and streams[0] > 5:  # its workers are left behind
            print(
                "(EngineCore pid=7) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
                flush=True,
            )
            os._exit(1)
        if streams[0] > 5 and "END_FILE" in os.environ:  # ends the worker; a head without its worker answers no more
            Path(os.environ["END_FILE"]).touch()
            time.sleep(300)
        prompt = len(body["messages"][0]["content"].split())
        self._head(200, "text/event-stream", None)
        for _ in range(3):
            time.sleep(0.03)
            self._event({"model": "fake", "choices": [{"delta": {"content": "word "}, "finish_reason": None}]})
        usage = {"prompt_tokens": prompt, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}
        self._event({"model": "fake", "choices": [{"delta": {}, "finish_reason": "length"}], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, value):
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _json(self, value):
        body = json.dumps(value).encode()
        self._head(200, "application/json", len(body))
        self.wfile.write(body)

    def _head(self, status, kind, length):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header(*(("Content-Length", str(length)) if length is not None else ("Transfer-Encoding", "chunked")))
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
