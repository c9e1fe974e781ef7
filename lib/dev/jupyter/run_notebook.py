"""Runs a notebook from its first cell to its last and writes it, executed, as .ipynb and .html.

    python run_notebook.py NOTEBOOK OUT_DIR CWD CELL_TIMEOUT_SECONDS

Prints one JSON object a line: {"event": "start" | "cell" | "done" | "error" | "written", ...}. Stops at
the first cell with an error, still writes both files, and exits with 1. Ends, with its kernel, on
SIGTERM and when its standard input closes.
"""

import asyncio
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbconvert import HTMLExporter

# A result may come after the kernel has said that it is idle, where nbclient stops to listen.
LATE_OUTPUT_SECONDS = 0.05
# A display that moves faster than that never lets the channel fall silent.
LATE_OUTPUT_DEADLINE_SECONDS = 1.0


def say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


async def take_late_outputs(client, cell, index, reply):
    """Adds to the cell what the kernel sends after "idle"."""
    deadline = time.monotonic() + LATE_OUTPUT_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            message = await client.kc.iopub_channel.get_msg(timeout=LATE_OUTPUT_SECONDS)
        except queue.Empty:
            return
        if message["parent_header"].get("msg_id") != reply["parent_header"].get("msg_id"):
            continue
        try:
            client.process_message(message, cell, index)
        except CellExecutionComplete:
            pass


def failure_of(cell, reply):
    """The error of a cell, wherever it stands: a formatting error leaves the reply ok, and a syntax
    error leaves no output."""
    if "raises-exception" in cell.metadata.get("tags", []):
        return None
    for output in cell.outputs:
        if output.output_type == "error":
            return {
                "name": output.ename,
                "value": output.evalue,
                "traceback": "\n".join(output.traceback),
            }
    content = (reply or {}).get("content", {})
    if content.get("status") == "error":
        return {
            "name": content.get("ename") or "Error",
            "value": content.get("evalue") or "the kernel refused the cell",
            "traceback": "\n".join(content.get("traceback") or []),
        }
    return None


async def run_cells(notebook, cwd, cell_timeout):
    """Runs the cells; tells whether all went well."""
    cells = [
        (index, cell)
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]
    replies = {}
    client = NotebookClient(
        notebook,
        kernel_name="deno",
        timeout=cell_timeout,
        startup_timeout=60,
        allow_errors=True,
        resources={"metadata": {"path": cwd}},
        on_cell_executed=lambda cell, cell_index, execute_reply: replies.update(
            {cell_index: execute_reply}
        ),
    )
    say("start", total=len(cells))
    async with client.async_setup_kernel():
        for number, (index, cell) in enumerate(cells, start=1):
            title = next(line for line in cell.source.splitlines() if line.strip()).strip()
            place = {"index": number, "total": len(cells), "title": title}
            say("cell", **place)
            since = time.monotonic()
            try:
                await client.async_execute_cell(cell, index, execution_count=number)
                await take_late_outputs(client, cell, index, replies[index])
                failure = failure_of(cell, replies[index])
            except Exception as error:  # A dead kernel, a cell past its time.
                failure = {
                    "name": type(error).__name__,
                    "value": str(error).strip() or "no reason given",
                    "traceback": "",
                }
            seconds = round(time.monotonic() - since, 3)
            if failure:
                say("error", **place, seconds=seconds, **failure)
                return False
            say("done", **place, seconds=seconds)
    return True


def write(notebook, name, out_dir):
    out_dir.mkdir(parents=True, exist_ok=True)
    executed = out_dir / f"{name}.ipynb"
    nbformat.write(notebook, executed)
    page = out_dir / f"{name}.html"
    html, _ = HTMLExporter().from_notebook_node(
        notebook, resources={"metadata": {"name": name}}
    )
    page.write_text(html, encoding="utf-8")
    say("written", notebook=str(executed), html=str(page))


async def main(path, out_dir, cwd, cell_timeout):
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if os.name != "nt":  # Windows has only the closed standard input.
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, task.cancel)

    def end_with_parent():
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=end_with_parent, daemon=True).start()
    notebook = nbformat.read(path, as_version=4)
    succeeded = False
    try:
        succeeded = await run_cells(notebook, cwd, cell_timeout)
    except asyncio.CancelledError:
        return 130
    write(notebook, Path(path).stem, Path(out_dir))
    return 0 if succeeded else 1


if __name__ == "__main__":
    status = asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
    # Not sys.exit: the thread that waits for standard input would be waited for.
    sys.stdout.flush()
    os._exit(status)
