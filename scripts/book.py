#!/usr/bin/env python3
"""Makes the documentation a book, with mdBook.

usage: book.py [--mdbook PROGRAM] FOLDER     the book is in FOLDER afterwards; what was in it is gone

docs/SUMMARY.md is the table of contents. Its links, and those of the pages, are relative to the file that they stand
in, so that they work where the files are read as they are. mdBook takes only what lies below one folder. So pages are
copied into one that is built like this repository, with the files that they link to; a folder that is linked to gets a
list of its files. Warnings of mdBook are errors.
"""

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def local(link):
    return not re.match(r"[a-z][a-z0-9+.-]*:", link)


def target(page, link):
    """What a link of a page means, from the root of the repository."""
    return os.path.normpath(os.path.join(os.path.dirname(page), link))


def outside_code(text, change):
    """The text with what is no code block changed."""
    done, at = "", 0
    for fence in FENCE.finditer(text):
        done += change(text[at:fence.start()]) + fence[0]
        at = fence.end()
    return done + change(text[at:])


class Book:
    def __init__(self, src):
        self.src = src
        summary = self.read("docs/SUMMARY.md")
        self.pages = [target("docs/SUMMARY.md", found[2]) for found in LINK.finditer(summary)]
        self.write("SUMMARY.md", LINK.sub(lambda found: found[1] + target("docs/SUMMARY.md", found[2]) + found[3], summary))
        for page in self.pages:
            self.write(page, outside_code(self.read(page), lambda text: self.collect(page, text)))

    def read(self, path):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return file.read()

    def place(self, path):
        place = os.path.join(self.src, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        return place

    def write(self, path, text):
        with open(self.place(path), "w", encoding="utf-8") as file:
            file.write(text)

    def collect(self, page, text):
        """Copies what is linked to, and turns links to folders into links to their lists."""
        def one(found):
            if not local(found[2]):
                return found[0]
            there = target(page, found[2])
            if os.path.isdir(os.path.join(ROOT, there)):
                self.list(there)
                return found[1] + found[2].rstrip("/") + "/index.html" + found[3]
            if there not in self.pages:
                if not os.path.exists(os.path.join(ROOT, there)):
                    sys.exit(f"error: {page} links to {there}, which is not there")
                if there.endswith(".md"):
                    sys.exit(f"error: {page} links to {there}, which is not in docs/SUMMARY.md")
                shutil.copy(os.path.join(ROOT, there), self.place(there))
            return found[0]
        return LINK.sub(one, text)

    def list(self, folder):
        names = []
        for at, folders, files in os.walk(os.path.join(ROOT, folder)):
            folders.sort()
            for name in sorted(files):
                path = os.path.relpath(os.path.join(at, name), ROOT)
                shutil.copy(os.path.join(ROOT, path), self.place(path))
                names.append(os.path.relpath(path, folder))
        items = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a>\n' for name in names)
        title = html.escape(folder)
        self.write(f"{folder}/index.html", f"<!DOCTYPE html>\n<meta charset=utf-8>\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n{items}</ul>\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--mdbook", default="mdbook")
    arguments.add_argument("folder")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as work:
        Book(os.path.join(work, "src"))
        for name in ("book.toml", "book.css"):
            shutil.copy(os.path.join(ROOT, "docs", name), work)
        done = subprocess.run([arguments.mdbook, "build", "--dest-dir", os.path.abspath(arguments.folder), work],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0 or re.search(r"\b(WARN|ERROR)\b", done.stdout):
        sys.exit(done.stdout.rstrip())


if __name__ == "__main__":
    main()
