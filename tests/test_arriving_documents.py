"""Documents as they arrive in a watched folder, and what becomes of the pages that were rendered for them."""

from pathlib import Path

import pytest
from conftest import png

from toolkit.console import StageError
from toolkit.extraction.documents import Document, PageRenderer, arriving


class Inbox:
    """A folder that is looked at by hand: `look()` returns the ids that are new."""

    def __init__(self, *folders: Path) -> None:
        self.documents = arriving(list(folders), seconds=60, pause=0)

    def look(self) -> list[str]:
        """All documents up to the first look that finds nothing new."""
        found = []
        while (document := next(self.documents)) is not None:
            found.append(document.identity)
        return found


def test_a_file_is_taken_once_and_only_when_it_no_longer_grows(tmp_path):
    inbox = Inbox(tmp_path)
    assert inbox.look() == []
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert inbox.look() == [], "it may still grow"
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 and more")
    assert inbox.look() == [], "it did"
    assert inbox.look() == ["a.pdf"]
    assert inbox.look() == inbox.look() == []


def test_an_empty_file_is_waited_for_and_other_files_are_none_of_its_business(tmp_path):
    inbox = Inbox(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"")
    (tmp_path / "a.pdf.part").write_bytes(b"%PDF")
    (tmp_path / "folder.pdf").mkdir()
    assert [inbox.look() for _ in range(3)] == [[], [], []]
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert [inbox.look() for _ in range(3)] == [[], ["a.pdf"], []]


def test_two_files_of_one_name_are_two_documents(tmp_path):
    for folder in ("one", "two"):
        png(tmp_path / folder / "a.png")
    inbox = Inbox(tmp_path)
    assert [*inbox.look(), *inbox.look()] == ["a.png", "two/a.png"]


def test_only_folders_can_be_watched(tmp_path):
    with pytest.raises(StageError, match="--watch needs folders"):
        next(arriving([png(tmp_path / "a.png")], seconds=1))


def test_rendered_pages_are_removed_when_the_document_is_done_and_given_ones_stay(tmp_path):
    given = png(tmp_path / "page.png")
    with PageRenderer(64, workers=1) as renderer:
        rendered = Document("r", source=png(tmp_path / "in/scan.png"))
        pages = renderer.pages_of(rendered).result(60)
        assert len(pages) == 1 and pages[0].is_file()
        renderer.release(rendered, pages)
        assert not pages[0].parent.exists()
        own = Document("g", pages=(given,))
        assert renderer.pages_of(own).result(0) == [given]
        renderer.release(own, [given])
    assert given.is_file()
