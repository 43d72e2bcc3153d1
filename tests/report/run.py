#!/usr/bin/env python3
"""Opens the pages of `cameo inspect --report` in headless Chromium and uses them as a reader would.

    python run.py MODEL.onnx...

Checks the header against `cameo inspect --json`, every tab, the nodes, the steps, filters, zoom, the times of a profile, and
that nothing was loaded and nothing was complained about. The last line says "N passed, M failed". CAMEO names the compiler; CHROMIUM the
browser, /usr/bin/chromium by default.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# Nothing that the browser would fetch for itself.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]
# A page is meant to be passed on.
SIZE_MAX = 2_000_000

# Names that would be markup, were they not text.
EVIL = """graph @evil (%0 "</script><b>x": f32[N,3]) {
  %1 "<img>" = Relu(%0) : f32[N,3] from "</script><b id=harm>"
  %2 = Neg(%1) : f32[N,3] from "n"
  return %2 "y"
}
"""


def compiler():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return os.environ.get("CAMEO", target / "release" / "cameo")


def cameo(*args):
    return subprocess.run([str(compiler()), *map(str, args)], check=True, capture_output=True, text=True).stdout


class Page:
    """A page of a model in the browser, and what was checked of it."""

    def __init__(self, browser, model, folder, profile=None):
        self.name = Path(model).stem
        self.profile = profile and json.loads(Path(profile).read_text())
        self.passed, self.failed = 0, 0
        self.told, self.requests = [], []
        path = Path(folder) / f"{self.name}.html"
        cameo("inspect", model, "--report", path, *(["--profile", profile] if profile else []))
        self.size = path.stat().st_size
        self.found = json.loads(cameo("inspect", model, "--optimized", "--json"))
        self.imported = json.loads(cameo("inspect", model, "--json"))
        self.decisions = [json.loads(line) for line in cameo("inspect", model, "--explain=json").splitlines()]
        self.page = browser.new_page(viewport={"width": 1400, "height": 860})
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda m: self.told.append(m.text))
        self.page.on("pageerror", lambda e: self.told.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def check(self, good, what):
        self.passed += bool(good)
        self.failed += not good
        if not good:
            print(f"{self.name}: {what}")

    def text(self, selector):
        return self.page.inner_text(selector)

    def count(self, selector):
        return self.page.locator(selector).count()

    def tab(self, name):
        self.page.click(f"[data-view={name}]")
        shown = [v for v in ("graph", "kernels", "memory", "decisions") if self.page.is_visible(f"#{v}")]
        self.check(shown == [name], f"the tab {name} shows {shown}")

    def transform(self, pane):
        return self.page.get_attribute(f"#{pane} svg > g", "transform")

    def select(self, pane, op):
        """Clicks the first node of an operator, in the middle of its pane."""
        box = self.page.evaluate("""([k, op]) => {
            const i = panes[k].graph.boxes.findIndex(b => b.op === op);
            panes[k].center(i);
            return i;
        }""", [int(pane == "after"), op])
        self.page.click(f"#{pane} [data-box='{box}'] rect")

    def header(self):
        head = re.sub(r"\s+", " ", self.text("header"))
        nodes, kernels = f"{self.found['nodes']:,}", f"{self.found['kernels']:,}"
        for what in (self.found["name"], f"{self.found['parameters']:,}", f"{self.imported['nodes']:,} → {nodes}",
                     f"Kernels {kernels} called {self.found['steps']:,} times", "Arena",
                     *(f"{io['name']}: {io['dtype']}[" for io in self.found["inputs"] + self.found["outputs"])):
            self.check(what in head, f"{what!r} is not in the header: {head}")
        if self.found["symbols"]:
            self.check("= 128, the nominal size" in head, "the header does not name the nominal size")
        self.check(self.size < SIZE_MAX, f"{self.size} bytes")
        self.check(self.found["name"] in self.page.title(), self.page.title())

    def graphs(self):
        outside = len(self.found["inputs"]) + len(self.found["outputs"])
        self.check(self.count("#before .box") == self.imported["nodes"] + outside, "boxes before")
        self.check(self.count("#after .box") == self.found["nodes"] + outside, "boxes after")

        at = [self.transform("before")]
        for button in ("Zoom in", "Zoom out", "Show the whole graph"):
            self.page.click(f"#before [aria-label^='{button}']")
            at.append(self.transform("before"))
        pane = self.page.locator("#before svg").bounding_box()
        self.page.mouse.move(pane["x"] + 40, pane["y"] + 60)
        self.page.mouse.wheel(0, -300)
        self.page.wait_for_function("before => document.querySelector('#before svg > g').getAttribute('transform') !== before", arg=at[-1])
        at.append(self.transform("before"))
        self.page.mouse.down()
        self.page.mouse.move(pane["x"] + 90, pane["y"] + 90, steps=3)
        self.page.mouse.up()
        at.append(self.transform("before"))
        self.check(all(a != b for a, b in zip(at, at[1:])), f"zoom, fit, wheel and drag: {at}")

        op = max(self.imported["ops"], key=lambda o: (o in self.found["ops"], o in ("MatMul", "Conv"), o))
        self.select("before", op)
        details = self.text("#details")
        self.check(op in details and "before the passes" in details and "ONNX node" in details, details)
        self.check(self.count("#before .box.chosen") == 1, "the node is not framed")
        self.check(self.count("#after .box.kin") >= 1, "what became of the node is not framed")
        self.select("after", op)
        details = self.text("#details")
        self.check("after the passes" in details and "Computed by" in details, details)
        self.check(self.count("#before .box.kin") >= 1 and self.count("#after .box.kin") == 0, "kin of the node after")

        self.page.fill("#search", op.lower())
        hits = self.count("#before .box.found"), self.count("#after .box.found")
        self.check(hits[0] >= self.imported["ops"][op] and hits[1] >= self.found["ops"][op], f"{hits} found")
        self.check(self.text("#found") == f"{hits[0]} before, {hits[1]} after", self.text("#found"))
        self.page.press("#search", "Enter")
        self.check(self.count(".box.chosen.found") == 1, "Enter chooses what was found")
        self.page.fill("#search", "")
        self.check(self.count(".box.found") == 0, "an empty search finds nothing")

        # From a node to the step that computes it.
        self.select("after", op)
        step = self.page.locator("#details .link").first
        number = re.match(r"step (\d+)", step.inner_text()).group(1)
        step.click()
        self.check(self.page.is_visible("#kernels tr.details"), "the step's details are open")
        self.check(self.page.locator("#kernels tr.row.open td").first.inner_text() == number, "the step's number")

    def kernels(self):
        self.tab("kernels")
        rows = "#kernels tbody tr.row"
        self.page.fill("#kernel-filter", "")
        self.page.evaluate("kernelTable.fill()")
        self.check(self.count(rows) == self.found["steps"], f"{self.count(rows)} steps")
        self.page.locator(rows).first.click()
        kernel = self.text("#kernels tr.details pre")
        self.check(re.match(r"(nest outer|contraction batch|chain batch|winograd F\()", kernel), kernel)
        self.page.locator(rows).first.click()
        self.check(self.count("#kernels tr.details") == 0, "a second click closes the details")

        self.page.click("#kernels th button:text-is('FLOPs')")
        flops = self.page.eval_on_selector_all(rows, "all => all.map(r => steps[r.dataset.row].flops[1])")
        self.check(flops == sorted(flops, reverse=True), "sorted by FLOPs")
        if not self.found["symbols"]:
            self.check(sum(flops) == self.found["flops"], "FLOPs of the steps and of the model")
        self.page.click("#kernels th button:text-is('FLOPs')")
        again = self.page.eval_on_selector_all(rows, "all => all.map(r => steps[r.dataset.row].flops[1])")
        self.check(again == sorted(flops), "sorted the other way")
        self.page.fill("#kernel-filter", "contraction")
        self.check(0 < self.count(rows) < self.found["steps"], "the filter of kinds")
        self.page.fill("#kernel-filter", "no such thing")
        self.check(self.count(rows) == 0, "the filter of nonsense")

    def measured(self):
        head = re.sub(r"\s+", " ", self.text("header"))
        where = "".join(f"{n} = {v}, " for n, v in self.profile["symbols"].items()) + "2 threads"
        self.check("Measured" in head and where in head and "of the roofline" in head, f"{where!r} is not in {head}")
        self.tab("kernels")
        rows = "#kernels tbody tr.row"
        self.page.fill("#kernel-filter", "")
        self.page.evaluate("kernelTable.fill()")
        steps = self.profile["steps"]
        shown = self.page.eval_on_selector_all(rows, "all => all.map(r => Number(r.dataset.row))")
        times = [steps[i]["median_ms"] for i in shown]
        self.check(len(times) == len(steps) and times == sorted(times, reverse=True), f"the slowest first: {times}")
        titles = [t.strip() for t in self.page.locator("#kernels th").all_inner_texts()]
        cells = dict(zip(titles, self.page.locator(rows).first.locator("td").all_inner_texts()))
        slowest = steps[shown[0]]
        self.check(cells.get("Of all") == f"{100 * slowest['share']:.1f} %", f"{cells}")
        self.check(abs(float(cells["GFLOP/s"]) - slowest["gflop_per_s"]) <= 0.51, f"{cells}")
        self.check(abs(float(cells["Roofline"].split()[0]) - 100 * slowest["roofline"]) <= 0.051, f"{cells}")
        self.page.locator(rows).first.click()
        details = self.text("#kernels tr.details")
        self.check(f"of {slowest['shares']} share" in details and "of what" in details, details)
        self.check("a run." in self.text("#kernel-count") and where in self.text("#kernel-count"), self.text("#kernel-count"))
        self.page.click("#kernels th button:text-is('Roofline')")
        shown = self.page.eval_on_selector_all(rows, "all => all.map(r => Number(r.dataset.row))")
        roofs = [steps[i]["roofline"] for i in shown]
        self.check(roofs == sorted(roofs, reverse=True), f"sorted by roofline: {roofs}")

    def unmeasured(self):
        self.check("Measured" not in self.text("header"), "a time that nobody measured")
        self.tab("kernels")
        self.check("Roofline" not in self.text("#kernels thead"), "a roofline that nobody measured")

    def memory(self):
        self.tab("memory")
        self.check("most is alive at step" in self.text("#peak"), self.text("#peak"))
        tensors = self.page.evaluate("memory.tensors.length")
        self.check(tensors > 0 and self.count("#arena rect") == tensors, "a rectangle per tensor")
        # Tensors that live at the same step do not overlap, but where a result takes over an operand's place.
        overlap = self.page.evaluate("""memory.tensors.some((a, i) => memory.tensors.slice(i + 1).some(b =>
            Math.max(a[1], b[1]) < Math.min(a[2], b[2]) && Math.max(a[3], b[3]) < Math.min(a[3] + a[4][1], b[3] + b[4][1])))""")
        self.check(not overlap, "tensors overlap")
        largest = self.page.evaluate("memory.tensors.reduce((m, t, i, all) => t[4][1] > all[m][4][1] ? i : m, 0)")
        self.page.hover(f"#arena [data-tensor='{largest}']", force=True)
        tip = self.text("#tip")
        self.check("steps" in tip and "at " in tip, f"tooltip {tip!r}")

    def explained(self):
        self.tab("decisions")
        rows = "#decisions tbody tr.row"
        self.check(self.count(rows) == len(self.decisions), f"{self.count(rows)} decisions")
        a_pass = self.decisions[0]["pass"]
        self.page.select_option("#pass", a_pass)
        self.check(self.count(rows) == sum(d["pass"] == a_pass for d in self.decisions), f"decisions of {a_pass}")
        self.page.select_option("#outcome", "applied")
        wanted = sum(d["pass"] == a_pass and d["outcome"] == "applied" for d in self.decisions)
        self.check(self.count(rows) == wanted, f"applied decisions of {a_pass}")
        self.page.select_option("#pass", "")
        self.page.select_option("#outcome", "")
        named = next(d for d in self.decisions if d["nodes"])
        self.page.fill("#decision-filter", named["nodes"][0])
        self.check(0 < self.count(rows) <= len(self.decisions), "decisions by node")
        self.page.locator(rows + " .link").first.click()
        self.check(self.page.is_visible("#graph") and self.count(".box.found") > 0, "from a decision to its nodes")

    def silent(self):
        self.check(self.told == [], f"said: {self.told}")
        self.check(self.requests == [self.url], f"loaded: {self.requests}")

    def evil(self):
        self.check(self.count("#harm, b, img") == 0, "a name became markup")
        self.check(self.page.evaluate("names").count("</script><b id=harm>") == 1, "the name is lost")
        self.check("</script><b>x" in self.text("header"), self.text("header"))
        self.page.fill("#search", "<b id=harm>")
        self.page.press("#search", "Enter")
        self.check("</script><b id=harm>" in self.text("#details"), self.text("#details"))
        for view in ("kernels", "memory", "decisions"):
            self.tab(view)
        self.check(self.count("#harm, b, img") == 0, "a name became markup later")

    def narrow(self):
        self.page.set_viewport_size({"width": 480, "height": 800})
        for view in ("kernels", "memory", "decisions", "graph"):
            self.tab(view)
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        self.check(wide <= 480, f"{wide} pixels wide on a narrow screen")


def measure(model, folder):
    """A profile of a model with dimensions of 2."""
    program, profile = Path(folder) / "timed", Path(folder) / "profile.json"
    cameo("compile", model, "--profile", "-q", "-o", program)
    described = json.loads(subprocess.run([program, "--describe"], check=True, capture_output=True, text=True).stdout)
    symbols = {s["name"]: max(2, s["min"]) for s in described["symbols"]}
    arrays = {i["name"]: np.zeros([symbols.get(d, d) for d in i["shape"]], i["dtype"]) for i in described["inputs"]}
    np.savez(Path(folder) / "inputs.npz", **arrays)
    subprocess.run([program, "--inputs", Path(folder) / "inputs.npz", "--runs", "3", "--threads", "2", "--profile", profile],
                   check=True, capture_output=True)
    return profile


def main():
    models = sys.argv[1:]
    if not models:
        raise SystemExit(__doc__.split("\n\n")[1])
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        evil = Path(folder) / "evil.ir"
        evil.write_text(EVIL)
        pages = [(model, None) for model in [*models, evil]] + [(model, measure(model, folder)) for model in models[-1:]]
        for model, profile in pages:
            page = Page(browser, model, folder, profile)
            times = page.measured if profile else page.unmeasured
            parts = [page.header, page.graphs, times, page.kernels, page.memory, page.explained]
            if model is evil:
                parts = [page.evil]
            for part in [*parts, page.narrow, page.silent]:
                try:
                    part()
                except Error as error:
                    page.check(False, f"{part.__name__}: {error}")
            print(f"{page.name}: {page.passed} checks passed, {page.size} bytes")
            passed += page.passed
            failed += page.failed
        browser.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
