"""What the text of a chapter keeps to: markup, spelling, symbols, terms; see ``contract.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbformat import NotebookNode

MARKUP = {
    r"^\s*`{3,}\s*\{": "a backtick directive shows as code on Colab: use a colon fence",
    r"\{glue": "{glue} shows nothing on Colab",
    r"<(?!https?://|/?(details|summary)\b)[A-Za-z/!][^>\n]*>": "raw HTML",
    r"<<|>>": "a placeholder in angle brackets",
    r"\\(newcommand|renewcommand|def|DeclareMathOperator)\b": "a LaTeX macro fails on GitHub",
    r"!\[": "an image in the text: draw it in a cell, with alternative text",
}
BRITISH = re.compile(
    r"""\b(
    \w*(colour|behaviour|neighbour|favour|honour|flavour)\w*
    | \w*(character|discret|emphas|equal|factor|general|initial|linear|memor|minim|maxim|normal
        |optim|organ|parallel|parametr|penal|quant|random|real|recogn|regular|special|stabil
        |standard|summar|token|util|vector|visual)is(e|ed|er|ers|es|ing|ation|ations)
    | \w*(label|model|cancel|channel|signal|total|travel)l(ed|er|ing)
    | \w*analys(e|ed|ing) | cent(re|red|res) | grey(s|scale)? | (centi|milli)?metres?
    | artefacts? | catalogues? | defence | fulfil | judgements? | learnt | licences? | programmes?
    | sceptic\w* | spelt | whilst
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
LETTER = re.compile(
    r"""[A-Za-z] | \\(ell | alpha | beta | gamma | delta | epsilon | varepsilon | zeta | eta | theta
    | kappa | lambda | mu | nu | xi | rho | sigma | tau | phi | varphi | chi | psi | omega
    | Gamma | Delta | Theta | Lambda | Xi | Pi | Sigma | Phi | Psi | Omega)""",
    re.VERBOSE,
)  # without pi, a number
KNOWN = {"d", "e", r"\mathbb E", r"\mathbb R"}  # d of a derivative, e = 2.718..., mean, reals
# Terms that are everyday words too: not every use is that of the glossary.
EVERYDAY = {"chance", "engine", "head", "implicit", "mask", "task", "unrolled", "way"}


def page_prose(notebook: NotebookNode) -> str:
    """The text cells, one after the other."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _unfenced(text: str) -> str:
    """The text without fenced code; directives stay."""
    fence = re.compile(r"^(`{3,})(\s*\{)?.*?^\1\s*$", re.MULTILINE | re.DOTALL)
    return fence.sub(lambda match: match[0] if match[2] else "", text)


def without_code(text: str) -> str:
    """Markdown without fenced and inline code and without formulas, directives kept."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", _macros_only, _unfenced(text), flags=re.DOTALL)
    return re.sub(r"(?<!`)(`{1,2})(?!`).+?(?<!`)\1(?!`)", "", text)


def _macros_only(formula: re.Match) -> str:
    return " ".join(re.findall(r"\\[A-Za-z]+", formula[0]))


def markup(notebook: NotebookNode) -> Iterator[str]:
    """Only markup that a reader can also read on Colab and GitHub."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = without_code(cell.source)
            for pattern, why in MARKUP.items():
                if match := re.search(pattern, text, re.MULTILINE):
                    yield f"{match[0].strip()!r}: {why}"


def plain(text: str) -> str:
    """What is read as words: roles by their text, a formula or a piece of code as one ``x``."""
    text = _unfenced(text)
    text = re.sub(r"\$\$.*?\$\$(\s*\(\w+\))?|\$[^$\n]+\$", "x", text, flags=re.DOTALL)
    for pattern, shown in (
        (r"^:{3,}(\{solution.*)?$|^:\w+:.*$|^[:`]{3,}\{[\w-]+\}|^`{3,}$", ""),
        (r"\{(?:term|ref|doc|numref)\}`([^`<]*?)\s*(?:<[^`]*)?`", r"\1"),
        (r"(\{[\w:]+\})?`+[^`]+`+", "x"),
        (r"\]\([^)]*\)|<https?:[^>]*>", "] "),
    ):
        text = re.sub(pattern, shown, text, flags=re.MULTILINE)
    return text


def spelling(text: str) -> Iterator[str]:
    """American spelling, as in the code."""
    for word in sorted({match[0] for match in BRITISH.finditer(plain(text))}):
        yield f"{word!r} is British spelling"


def words(text: str) -> int:
    """How many words are read; a formula is one."""
    return len(re.findall(r"\w[\w.,'’-]*", plain(text)))


def symbols(text: str) -> set[str]:
    """The symbols of all formulas: letters, Latin, Greek or with an accent, without indices."""
    text = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", _unfenced(text))
    found = set()
    for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", text, flags=re.DOTALL):
        formula = re.sub(r"\\(text|operatorname|mathrm|begin|end)\*?\s*\{[^}]*\}", "", formula)
        accents = r"(?:\\(?:mathcal|mathbb|bar|hat|tilde)\s*\{?\s*)*"
        for token in re.findall(rf"{accents}(?:\\[A-Za-z]+|[A-Za-z])", formula):
            parts = re.findall(r"\\[A-Za-z]+|[A-Za-z]", token)
            if LETTER.fullmatch(parts[-1]):
                found.add(" ".join(parts))
    return found


def notation(table: str, chapter: str) -> set[str]:
    """The symbols that the notation page has for a chapter (``"2"``, ``"A1"``).

    A row that says "in chapter 2" or "in appendix A1" is for no other chapter.
    """
    found = set()
    for row in re.findall(r"^\| \$.*$", table, flags=re.MULTILINE):
        only = " ".join(re.findall(r"\bin (?:chapters?|appendix) ((?:A?\d+(?:, | and )?)+)", row))
        if not only or chapter in re.findall(r"A?\d+", only):
            found |= symbols(row.split(" | ")[0])
    return found


def unexplained(notebook: NotebookNode, table: str, chapter: str) -> Iterator[str]:
    """Every symbol of a formula stands in the notation page."""
    for symbol in sorted(symbols(page_prose(notebook)) - notation(table, chapter) - KNOWN):
        yield f"the symbol {symbol} is not in book/notation.md"


def glossary_terms(glossary: str) -> list[str]:
    """The entries of the glossary page."""
    blocks = re.findall(r"^```\{glossary\}\n(.*?)^```", glossary, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.findall(r"^\S.*$", block, re.MULTILINE)]


def unlinked(notebook: NotebookNode, terms: list[str]) -> Iterator[str]:
    """The first use of a term, after the title and outside of headings, links to the glossary."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"][1:]
    text = re.sub(r"^#.*$", "", "\n\n".join(cells), flags=re.MULTILINE)
    marked = plain(re.sub(r"\{term\}`([^`]+)`", lambda m: f"[[{_target(m[1])}]]", text))
    for term in sorted(set(terms) - EVERYDAY):
        spaced = re.escape(term).replace(r"\ ", r"[\s-]+")
        case = 0 if re.search(r"[A-Z]", term) else re.IGNORECASE
        use = re.search(rf"(?<![\w\[-]){spaced}s?(?![\w\]-])", marked, case)
        link = marked.casefold().find(f"[[{term.casefold()}]]")
        if use and not 0 <= link < use.start():
            yield f"the first use of {term!r} does not link to the glossary"


def _target(role: str) -> str:
    """The term that a role's text points to."""
    return role.rpartition("<")[2].rstrip(">").strip()


def links(text: str) -> list[str]:
    """Relative targets of Markdown links, without anchors."""
    targets = re.findall(r"\]\(\s*<?([^)>\s]+)", without_code(text))
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]


def citations(text: str) -> set[str]:
    """Keys of all citation roles."""
    keys = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text)
    return {key.strip() for group in keys for key in group.split(",")}
