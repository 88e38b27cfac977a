"""Reads an HTML page that a test has made."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class PageReader(HTMLParser):
    """Keeps tags with attributes, texts, and tables as rows of cells; fails where a tag is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.texts, self.tables = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ")

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def parse(html, reader=PageReader):
    """Return what a page holds, after checking that every tag of it is closed."""
    made = reader()
    made.feed(html)
    made.close()
    assert made.open == []
    return made
