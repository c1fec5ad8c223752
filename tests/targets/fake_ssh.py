"""Stands for ssh: ``python fake_ssh.py HOST COMMAND`` runs a shell in another session with an environment of its own.

Only standard input and output lead to it. When this process is killed, the other end is not told, as with ssh.
"""

import os
import subprocess
import sys
import threading

host, command = sys.argv[1:]
shell = subprocess.Popen(
    ["sh", "-c", command],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    start_new_session=True,
    env={"PATH": os.environ["PATH"], "NODE_OF_TEST": host},
)


def forward() -> None:
    while data := os.read(0, 65536):
        shell.stdin.write(data)
        shell.stdin.flush()
    shell.stdin.close()


threading.Thread(target=forward, daemon=True).start()
while data := os.read(shell.stdout.fileno(), 65536):
    os.write(1, data)
sys.exit(shell.wait())
