"""The documentation as a book: it is built without a warning, has every page of docs/, and no link in it is dead."""

import html.parser
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse


class Page(html.parser.HTMLParser):
    """What a page of the book links to, and the places in it that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links = set()
        self.places = set()
        with open(path, encoding="utf-8") as file:
            self.feed(file.read())

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("href", "src") and value:
                self.links.add(value)
            elif key in ("id", "name") and value:
                self.places.add(value)


def not_in_summary(root):
    """Pages of docs/ that the table of contents does not name."""
    docs = os.path.join(root, "docs")
    with open(os.path.join(docs, "SUMMARY.md"), encoding="utf-8") as file:
        named = set(re.findall(r"\]\(([^)]+)\)", file.read()))
    there = {os.path.relpath(os.path.join(folder, name), docs)
             for folder, _, names in os.walk(docs) for name in names if name.endswith(".md")}
    return sorted(there - named - {"SUMMARY.md"})


def check(root, mdbook, result):
    missing = not_in_summary(root)
    result("docs/SUMMARY.md: every page", "\n".join(f"{page} is not in it" for page in missing) or None)
    with tempfile.TemporaryDirectory() as folder:
        book = os.path.join(folder, "book")
        built = subprocess.run([sys.executable, os.path.join(root, "scripts", "book.py"), "--mdbook", mdbook, book],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        result("the book is built", None if built.returncode == 0 else built.stdout + built.stderr)
        if built.returncode == 0:
            check_links(book, result)


def check_links(book, result):
    pages = {os.path.relpath(os.path.join(folder, name), book): Page(os.path.join(folder, name))
             for folder, _, names in os.walk(book) for name in names if name.endswith(".html")}
    # The frame with the table of contents stands in every page, and its links are those from the first one.
    for name, page in sorted(pages.items()):
        dead = [f"{link}: {why}" for link in sorted(page.links) if (why := fault(book, pages, name, link))]
        result(f"the book, {name}: links", "\n".join(dead) or None)


def fault(book, pages, name, link):
    """What is wrong with a link of a page."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = urllib.parse.unquote(parts.path)
    if path.startswith("/"):
        return "begins at the root of whatever the book is published on"
    there = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
    if not os.path.isfile(os.path.join(book, there)):
        return "no such file"
    place = urllib.parse.unquote(parts.fragment)
    if place and there in pages and place not in pages[there].places:
        return "no such place in that page"
    return None
