"""A headless Chromium, spoken to over pipes in the DevTools protocol, with the standard library alone."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]

# What a reader of a report can do: filter, sort by every column twice, open all. It gives what is in the page then, and what went wrong.
USE = """
(() => {
  const wrong = [], all = [...document.querySelectorAll("*")];
  let filters = 0, sorts = 0, opened = 0;
  for (const search of document.querySelectorAll("input[type=search]")) {
    const rows = [...document.getElementById(search.getAttribute("aria-controls")).tBodies[0].rows];
    for (const word of ["<", "script", "0.", "no such name", "e", ""]) {
      search.value = word;
      search.dispatchEvent(new Event("input", { bubbles: true }));
      const right = rows.filter((row) => row.textContent.toLowerCase().includes(word)).length;
      const shown = rows.filter((row) => row.checkVisibility()).length;
      if (shown !== right && !search.closest("details:not([open])")) wrong.push(`filter ${word}: ${shown} rows, expected ${right}`);
      filters += 1;
    }
  }
  for (const button of document.querySelectorAll("th button")) {
    const body = button.closest("table").tBodies[0], before = [...body.rows].map((row) => row.textContent).sort().join();
    for (const _ of [1, 2]) {
      button.click();
      if (!["ascending", "descending"].includes(button.closest("th").ariaSort)) wrong.push("not sorted");
      if ([...body.rows].map((row) => row.textContent).sort().join() !== before) wrong.push("sorting changes the rows");
      sorts += 1;
    }
  }
  for (const details of document.querySelectorAll("details")) {
    details.querySelector("summary").click();
    if (!details.open) details.open = true;
    opened += 1;
  }
  const marks = all.flatMap((element) => [...element.attributes].map((attribute) => [element.localName, attribute.name, attribute.value]));
  return {
    wrong, filters, sorts, opened, scripts: document.scripts.length, images: document.images.length,
    handlers: marks.filter(([, name]) => name.startsWith("on")).length,
    links: marks.filter(([, name, value]) => ["src", "href", "xlink:href", "action", "formaction", "srcdoc", "data"].includes(name) && value !== "data:,").length,
    frames: window.frames.length + document.querySelectorAll("iframe,object,embed,form,base,video,audio").length,
    text: document.body.innerText.length,
  };
})()
"""


class Browser:
    """A browser that shows one page after the other."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if not program:
            raise FileNotFoundError("no chromium")
        self.home = tempfile.TemporaryDirectory(prefix="weigh-browser-", ignore_cleanup_errors=True)
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in pair]
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                   "--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={self.home.name}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4),
                                        preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[3], 4)))
        os.close(ends[0])
        os.close(ends[3])
        self.write, self.read, self.rest, self.number, self.events = ends[1], ends[2], b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if method.split(".")[0] != "Target":
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        return self.number

    def receive(self, until):
        """The next message; a dialog is closed at once, since nothing goes on while it is open."""
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            self.rest += os.read(self.read, 1 << 16) or self.gone()
        message, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
            if message["method"] == "Page.javascriptDialogOpening":
                self.send("Page.handleJavaScriptDialog", accept=True)
        return message

    def gone(self):
        raise EOFError("the browser ended")

    def call(self, method, timeout=60, **parameters):
        number, until = self.send(method, **parameters), time.monotonic() + timeout
        while True:
            message = self.receive(until)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def show(self, path, timeout=60):
        """Opens a page and uses it. Returns what was found, and all that a report must not do."""
        self.events.clear()
        until = time.monotonic() + timeout
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive(until)
        used = self.call("Runtime.evaluate", expression=USE, returnByValue=True)
        found, happened = used["result"].get("value"), self.events
        if found is None:
            return {}, [f"using it: {used}"]
        count = lambda *methods: sum(event["method"] in methods for event in happened)
        asked = [event["params"]["request"]["url"] for event in happened if event["method"] == "Network.requestWillBeSent"]
        found |= {"dialogs": count("Page.javascriptDialogOpening"), "errors": count("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"),
                  "requests": sum(not url.startswith(("data:,", path.resolve().as_uri())) for url in asked), "windows": count("Page.windowOpen", "Page.downloadWillBegin")}
        problems = list(found.pop("wrong"))
        problems += [f"{found[key]} {key}" for key in ("dialogs", "errors", "requests", "windows", "handlers", "images", "links", "frames") if found[key]]
        problems += [f"{found['scripts']} scripts"] if found["scripts"] != 1 else []
        problems += ["nothing to see"] if not found["text"] else []
        return found, problems

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.write)
        os.close(self.read)
        self.home.cleanup()
