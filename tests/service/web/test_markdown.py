"""Model text on the page: a little form, and nothing that acts."""

import random

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

RENDER = """async (text) => {
  const { renderMarkdown } = await import("/static/markdown.js");
  const box = document.createElement("div");
  renderMarkdown(box, text);
  return box.innerHTML;
}"""

INSPECT = """async (text) => {
  const { renderMarkdown } = await import("/static/markdown.js");
  const box = document.createElement("div");
  document.body.append(box);
  renderMarkdown(box, text);
  const nodes = [...box.querySelectorAll("*")];
  const found = {
    names: [...new Set(nodes.map((node) => node.localName))],
    attributes: [...new Set(nodes.flatMap((node) => node.getAttributeNames()))],
    text: box.textContent,
  };
  box.remove();
  return found;
}"""

PIECES = "*|**|_|`|```|\n|\n\n| |- |1. |# |> |<b>|[|](|)|!|a|é|🌊|\\"

ALLOWED = {"p", "strong", "em", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "div"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "<p>plain</p>"),
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("**bold** and *it* and _too_", "<p><strong>bold</strong> and <em>it</em> and <em>too</em></p>"),
        ("***both***", "<p><strong><em>both</em></strong></p>"),
        ("**bold *inside* it**", "<p><strong>bold <em>inside</em> it</strong></p>"),
        ("*smiles* Hello **you**!", "<p><em>smiles</em> Hello <strong>you</strong>!</p>"),
        ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
        ("2 * 3 * 4", "<p>2 * 3 * 4</p>"),
        ("lone * and ** and ` stay", "<p>lone * and ** and ` stay</p>"),
        ("an *open end", "<p>an *open end</p>"),
        (r"\*not\* it", "<p>*not* it</p>"),
        ("`a *b* <i>`", "<p><code>a *b* &lt;i&gt;</code></p>"),
        ("`` a`b ``", "<p><code>a`b</code></p>"),
        ("*a `*` b*", "<p><em>a <code>*</code> b</em></p>"),
        ("```py\nx = '*1*'\n\ny\n```\nafter", "<pre tabindex=\"0\"><code>x = '*1*'\n\ny</code></pre><p>after</p>"),
        ("```\nunclosed", '<pre tabindex="0"><code>unclosed</code></pre>'),
        ("- a\n- *b*", "<ul><li>a</li><li><em>b</em></li></ul>"),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("- a\n  - b\n  - c\n- d", "<ul><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ul>"),
        ("- a\n1. b", "<div><ul><li>a</li></ul><ol><li>b</li></ol></div>"),
        ("text\n- a", "<p>text</p><ul><li>a</li></ul>"),
        ("# Head", "<p><strong>Head</strong></p>"),
        ("> q\n> r", "<blockquote>q\nr</blockquote>"),
        ("***\nx", "<hr><p>x</p>"),
        ("a\r\nb", "<p>a\nb</p>"),
        ("", ""),
        ("\n \n", ""),
    ],
)
async def test_form(blank: Page, text: str, html: str) -> None:
    assert await blank.evaluate(RENDER, text) == html


@pytest.mark.parametrize(
    "text",
    [
        "[click](https://evil.example/?q=secret)",
        "![pixel](https://evil.example/p.png)",
        "[x]: https://evil.example",
        "<https://evil.example>",
        "https://evil.example",
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        "<svg onload=alert(1)>",
        "<iframe src=javascript:alert(1)></iframe>",
        "<a href='javascript:alert(1)'>x</a>",
        "</p></div><form action=https://evil.example><input>",
        "&lt;b&gt; &amp;",
        "<style>*{display:none}</style>",
        "<!-- x -->",
        "<|im_start|>system",
    ],
)
@pytest.mark.parametrize("shape", ["{}", "**{}**", "- {}", "> {}", "# {}"])
async def test_nothing_of_it_acts_and_nothing_is_hidden(blank: Page, text: str, shape: str) -> None:
    found = await blank.evaluate(INSPECT, shape.format(text))
    assert set(found["names"]) <= ALLOWED
    assert set(found["attributes"]) <= {"tabindex", "start"}
    assert found["text"] == text


async def test_random_text_never_makes_anything_else(blank: Page) -> None:
    chance = random.Random(20261122)
    texts = ["".join(chance.choices(PIECES.split("|"), k=chance.randint(1, 60))) for _ in range(2000)]
    found = await blank.evaluate(
        """async (texts) => {
          const { renderMarkdown } = await import("/static/markdown.js");
          const names = new Set();
          const lost = [];
          for (const text of texts) {
            const box = document.createElement("div");
            renderMarkdown(box, text);
            for (const node of box.querySelectorAll("*")) names.add(node.localName);
            const letters = (shown) => [...shown].filter((each) => "aé🌊".includes(each)).join("");
            // a fence's opening line may name a language, which is not shown
            if (!text.includes("```") && letters(box.textContent) !== letters(text)) lost.push(text);
          }
          return { names: [...names], lost };
        }""",
        texts,
    )
    assert set(found["names"]) <= ALLOWED
    assert found["lost"] == []


async def test_a_growing_text_ends_like_a_whole_one(blank: Page) -> None:
    text = "Hi *there*.\n\n- one\n- **two**\n\n```\ncode *x*\n```\n\n> quoted\n\n1. a\n2. b\n\nThe `end` 🌊."
    differing = await blank.evaluate(
        """async (text) => {
          const { renderMarkdown } = await import("/static/markdown.js");
          const growing = document.createElement("div");
          const differing = [];
          for (let end = 0; end <= text.length; end += 1) {
            renderMarkdown(growing, text.slice(0, end));
            const whole = document.createElement("div");
            renderMarkdown(whole, text.slice(0, end));
            if (whole.innerHTML !== growing.innerHTML) differing.push(end);
          }
          return differing;
        }""",
        text,
    )
    assert differing == []


async def test_finished_blocks_are_left_alone(blank: Page) -> None:
    kept = await blank.evaluate("""async () => {
      const { renderMarkdown } = await import("/static/markdown.js");
      const box = document.createElement("div");
      renderMarkdown(box, "first\\n\\nsec");
      const first = box.firstChild;
      renderMarkdown(box, "first\\n\\nsecond\\n\\nthird");
      return [box.firstChild === first, box.children.length];
    }""")
    assert kept == [True, 3]


@pytest.mark.parametrize("piece", ["*a ", "**a ", "_a ", "`a ``", "*`", "***", "> ", "- ", "[", "```\n", "\\"])
async def test_hostile_repetition_stays_cheap(blank: Page, piece: str) -> None:
    """100,000 characters of lone marks; the bound leaves a slow machine ten times the usual."""
    milliseconds = await blank.evaluate(
        """async (text) => {
          const { renderMarkdown } = await import("/static/markdown.js");
          const start = performance.now();
          renderMarkdown(document.createElement("div"), text);
          return performance.now() - start;
        }""",
        piece * (100_000 // len(piece)),
    )
    assert milliseconds < 3000
