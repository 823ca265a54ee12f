"""The list of checks and how they are run and counted."""

import contextlib
import io
import os
import time
import traceback

CHECKS = []


def check(name):
    """Registers a function of one argument, the `World`, as a check; it fails by raising."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


def expect_equal(actual, wanted, what):
    if actual != wanted:
        raise AssertionError(f"{what} differs\n  wanted: {short(wanted)}\n  got:    {short(actual)}")


def short(value, limit=600):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit // 2]} … ({len(text)} in all) … {text[-limit // 2:]}"


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true and returns its value; what it raises counts as not yet."""
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # noqa: BLE001: shown when time is up
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last: {short(repr(last))})")
        time.sleep(0.05)


class Report:
    def __init__(self, only=None):
        self.only = only
        self.passed = 0
        self.failed = 0

    def add(self, name, error=None, seconds=0.0):
        if error is None:
            self.passed += 1
            print(f"ok    {name}" + (f"  ({seconds:.0f} s)" if seconds >= 2 else ""), flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {name}\n      {error.strip().replace(chr(10), chr(10) + '      ')}", flush=True)

    def run(self, name, function, world):
        if self.only and self.only not in name:
            return
        began = time.monotonic()
        try:
            function(world)
        except Exception as error:  # noqa: BLE001: every failure of a check is a result
            self.add(name, describe(error))
        else:
            self.add(name, seconds=time.monotonic() - began)

    def close(self):
        print(f"e2e: {self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1


def describe(error):
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"
    if isinstance(error, AssertionError) and str(error):
        return f"{error}\n({place})"
    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        traceback.print_exception(error, limit=-4, file=text)
    return text.getvalue()


