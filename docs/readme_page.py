"""A hook of mkdocs that makes README.md the first page of the site.

README.md links to `docs/page.md`, a page to `../README.md`: both work in the repository, and are turned into the
site's own links here. What README.md links to outside of `docs/` becomes a file of the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
README = "index.md"
_DRAWING = re.compile(r"(!\[[^]]*\]\()([^)\s]*figures/)(\w+)\.png\)")
_README = re.compile(r"\]\(\.\./((?:\.\./)*)README\.md")
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Adds the first page and the files that it links to."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, README, content=text))
    for target in dict.fromkeys(_LINK.findall(text)):
        # a path that is not there stays a broken link, which a strict build reports
        if not target.startswith("docs/") and (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links of the repository into links of the site, and shows drawings in the form of the page."""
    markdown = _DRAWING.sub(_both_forms, markdown)
    markdown = re.sub(r"^```(\w+) .+$", r"```\1", markdown, flags=re.MULTILINE)  # `python no-run` is Python
    if page.file.src_uri == README:
        return _LINK.sub(lambda link: link[1].removeprefix("docs/"), markdown)
    return _README.sub(rf"](\1{README}", markdown)


def _both_forms(drawing: re.Match[str]) -> str:
    """Returns a drawing that has a dark form as two, of which the site shows one."""
    opening, folder, name = drawing.groups()
    if not (ROOT / "docs" / "figures" / f"{name}_dark.png").is_file():
        return drawing[0]
    return f"{opening}{folder}{name}.png#only-light) {opening}{folder}{name}_dark.png#only-dark)"
