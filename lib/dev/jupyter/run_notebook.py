"""Runs a notebook from its first cell to its last and writes it, executed, as .ipynb and .html.

    python run_notebook.py NOTEBOOK OUT_DIR CWD CELL_TIMEOUT_SECONDS

Prints a JSON object a line: {"cell": …} where a cell begins, {"error": …} where it failed, which ends the
run, and {"written": …} at the end. Ends, with its kernel, when its standard input closes.
"""

import asyncio
import json
import os
import queue
import re
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


# Nothing is fetched from anywhere, and the page has the theme of whoever reads it.
PAGE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
{%- set dark = resources.include_css("static/theme-dark.css") -%}
{{ dark | replace("<style", '<style media="(prefers-color-scheme: dark)"') }}
<style>:root { color-scheme: light dark } body { background: var(--jp-layout-color0) }</style>
{%- endblock -%}
{%- block body_header -%}<body class="jp-Notebook"><main>{%- endblock -%}
"""


def say(kind, **values):
    print(json.dumps({kind: values}), flush=True)


class Client(NotebookClient):
    """Tells where a cell begins, and mends what the Deno kernel does otherwise than nbclient expects."""

    def __init__(self, notebook, **options):
        hooks = {"on_cell_execute": self.begin, "on_cell_executed": self.settle}
        super().__init__(notebook, **hooks, **options)
        self.places = [
            index
            for index, cell in enumerate(notebook.cells)
            if cell.cell_type == "code" and cell.source.strip()
        ]
        self.headings = []
        heading = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                found = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)
                heading = found[-1] if found else heading
            self.headings.append(heading)

    def begin(self, cell, cell_index):
        place = self.places.index(cell_index) + 1
        title = cell.source.strip().splitlines()[0]
        heading = self.headings[cell_index]
        say("cell", index=place, total=len(self.places), title=title, heading=heading)

    async def settle(self, cell, cell_index, execute_reply):
        await self.take_late_outputs(cell, cell_index, execute_reply["parent_header"]["msg_id"])
        for output in cell.outputs:
            # A result that cannot be shown is an error among the outputs, and the reply is ok.
            if output.output_type == "error" and execute_reply["content"]["status"] == "ok":
                execute_reply["content"] = {**output, "status": "error"}

    async def take_late_outputs(self, cell, cell_index, msg_id):
        deadline = time.monotonic() + LATE_OUTPUT_DEADLINE_SECONDS
        while time.monotonic() < deadline:
            try:
                message = await self.kc.iopub_channel.get_msg(timeout=LATE_OUTPUT_SECONDS)
                if message["parent_header"].get("msg_id") == msg_id:
                    self.process_message(message, cell, cell_index)
            except queue.Empty:
                return
            except CellExecutionComplete:
                pass


def end_with_parent(loop, task):
    while os.read(0, 1):
        pass
    loop.call_soon_threadsafe(task.cancel)


def write(notebook, name, out_dir):
    out_dir.mkdir(parents=True, exist_ok=True)
    executed = out_dir / f"{name}.ipynb"
    nbformat.write(notebook, executed)
    page = out_dir / f"{name}.html"
    html, _ = HTMLExporter(raw_template=PAGE).from_notebook_node(
        notebook, resources={"metadata": {"name": name}}
    )
    page.write_text(html, encoding="utf-8")
    say("written", notebook=str(executed), html=str(page))


async def main(path, out_dir, cwd, cell_timeout):
    parent = (asyncio.get_running_loop(), asyncio.current_task())
    threading.Thread(target=end_with_parent, args=parent, daemon=True).start()
    notebook = nbformat.read(path, as_version=4)
    client = Client(
        notebook,
        kernel_name="deno",
        timeout=cell_timeout,
        startup_timeout=60,
        resources={"metadata": {"path": cwd}},
    )
    try:
        await client.async_execute()
    except Exception as error:  # A cell's own, a dead kernel, a cell past its time.
        say(
            "error",
            name=getattr(error, "ename", "") or type(error).__name__,
            value=getattr(error, "evalue", "") or str(error).strip(),
            traceback=getattr(error, "traceback", ""),
        )
    write(notebook, Path(path).stem, Path(out_dir))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
