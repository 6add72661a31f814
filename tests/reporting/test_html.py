"""The page: what it shows, and that nothing in it runs, loads or breaks out."""

import http.server
import re
import threading
from html.parser import HTMLParser

import pytest

from harness.analysis.summary import summarise
from harness.reporting import html

OUTCOMES = {
    "labels": {"without": ["PFFPP", "PPFPF"], "with": ["PPPPP", "PPFPP"]},
    "meters": {"without": ["PPPPP", "PPPPF"], "with": ["PPPPP", "FPPP-"]},
}

HOSTILE = r"""
<script>window.pwned = 1; alert("script")</script>
<img src=x onerror="window.pwned = 1"><svg onload="window.pwned = 1"></svg>
</pre></div></section></main></body></html><h1 id="breakout">out</h1>
<style>body { display: none !important; background: url(http://127.0.0.1:9/css) }</style>
<iframe src="http://127.0.0.1:9/frame" srcdoc="<script>parent.pwned = 1</script>"></iframe>
<link rel="stylesheet" href="http://127.0.0.1:9/link"><base href="http://127.0.0.1:9/">
<meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/refresh">
<form action="http://127.0.0.1:9/form"><button id="breakout-button">go</button></form>
<a href="javascript:window.pwned=1" id="breakout-link">x</a><details open ontoggle="window.pwned=1">
{{ 7 * 191 }} {% for x in () %} ${7*191} "' onmouseover='window.pwned=1' --> ]]> <!--
```html
</pre></details><script>window.pwned = 1</script>
```
`</code><script>window.pwned = 1</script>` &lt;script&gt;window.pwned = 1&lt;/script&gt;
""" + (
    "\x00\x1b[2J \u202egnp.exe\u202c \u2066hidden\u2069 \ufeff\U000e0041 \u2028"
    " javascript:window.pwned=1 data:text/html,<script>window.pwned=1</script>"
)


@pytest.fixture
def page(synthetic, tmp_path):
    def build(outcomes=OUTCOMES, suite=None, **options):
        run = synthetic.make_run(tmp_path / "run", outcomes, **options)
        if options.get("evidence"):
            run.add_log("labels.without.1.TestTimeouts.log", options["evidence"])
        suite = suite or synthetic.suite()
        return html.render(run, suite, summarise(run, suite))

    return build


def text_of(markup):
    shown = re.sub(r"<style>.*?</style>", "", markup, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", shown).split())


def test_the_first_screen_gives_the_lift_with_both_intervals_and_the_length(page):
    header = text_of(page().split("<main>")[0])
    assert "+6.2 points of lift" in header
    assert "On these cases −23.8 … +36.3" in header
    assert "On tasks like these −232.0 … +244.5" in header
    assert "×1.50" in header
    assert "epoch" not in header and "trial" not in header and "verdict" not in header


def test_it_carries_every_prompt_answer_verdict_and_log(page):
    markup = page(evidence="wanted 202 within 3 s")
    text = text_of(markup)
    for trial in ("labels/without/1", "labels/with/2", "meters/with/1"):
        assert text.count(f"{trial} xxx") == 1
    assert text.count("Build labels.") == 1
    assert "SKILL TEXT" in text
    assert "✗ fail wanted 202 within 3 s" in text
    assert "Log of TestTimeouts" in text
    assert "○ not graded the judge gave no quote" in text


def test_what_moved_most_stands_before_the_matrix(page):
    text = text_of(page())
    moved = text[text.index("What moved most") : text.index("Criterion by arm")]
    assert "upstream.breaker The claim of upstream.breaker. 2/4 3/4 +25.0" in moved
    assert "secrets.not_in_code" not in moved


def test_what_passed_in_every_arm_is_folded(page):
    text = text_of(page())
    assert text.count("4 criteria passed in every arm") == 3
    assert text.count("6 criteria passed in every arm") == 1


def test_it_says_first_when_the_skill_in_the_tree_has_no_answers(page, synthetic):
    text = text_of(page(plan={"tree_skill": synthetic.EDITED}))
    assert text.index("says nothing about your edit") < text.index("points of lift")


def test_from_one_arm_it_shows_no_lift(page):
    text = text_of(page({"labels": {"with": ["PPPPP"]}}))
    assert "No lift to show" in text
    assert "no answer in arm `without`" in text
    assert "points of lift" not in text


def test_three_arms_have_three_comparisons(page):
    arms = {"without": ["PFFPP", "PFFPP"], "baseline": ["PPFPP", "PPFPF"], "with": ["PPPPP"] * 2}
    text = text_of(page({"labels": arms, "meters": arms}))
    assert "+50.0 points of lift" in text
    others = text[text.index("Other comparisons") :]
    assert "with − baseline +25.0" in others
    assert "baseline − without +25.0" in others


def test_a_missing_answer_is_shown_as_missing(page):
    text = text_of(page({"labels": {"without": ["PFFPP", None], "with": ["PPPPP", "PPPPP"]}}))
    assert "without missing" in text
    assert "1 answer: labels/without/2" in text


def test_the_policy_allows_the_style_sheet_of_the_page_and_nothing_else(page):
    markup = page()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', markup)
    style = re.search(r"<style>(.*?)</style>", markup, re.S)
    assert policy and style
    assert html.policy(style[1]) == policy[1].replace("&#39;", "'")
    assert "script-src" not in policy[1] and "default-src &#39;none&#39;" in policy[1]


def test_answers_are_cut_into_prose_and_files_without_losing_a_line():
    answer = "Why.\n\n**main.py**\n```python\nx = 1\n```\nThen\n\n~~~\nleft open\n"
    found = html.parts(answer)
    assert [part.code for part in found] == [False, True, False, True]
    kept = "\n".join(part.text for part in found).split("\n")
    assert [line for line in kept if line] == [line for line in answer.split("\n") if line]


def test_ten_thousand_backticks_are_no_trouble():
    text = "`" * 10_000 + "\n" + "> " * 5_000 + "\n" + "[" * 10_000
    assert "".join(part.text for part in html.parts(text)).count("`") == 10_000


class Elements(HTMLParser):
    """Every tag and event attribute of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


HOSTILE_RUN = {
    "answers": {
        f"labels/{arm}/{epoch}": HOSTILE for arm in ("with", "without") for epoch in (1, 2)
    },
    "evidence": HOSTILE,
    "models": dict.fromkeys(
        (
            f"{case}/{arm}/{epoch}"
            for case in OUTCOMES
            for arm in ("with", "without")
            for epoch in (1, 2)
        ),
        HOSTILE,
    ),
    "stop": {"labels/with/1": HOSTILE},
    "plan": {"model": HOSTILE, "provenance": {"note": HOSTILE}, "recording": HOSTILE},
}


def test_hostile_text_adds_no_element_and_no_attribute(page, tmp_path, synthetic):
    hostile = Elements()
    hostile.feed(page(**HOSTILE_RUN))
    plain = Elements()
    run = synthetic.make_run(tmp_path / "plain", OUTCOMES, plan={"provenance": {"note": "plain"}})
    run.add_log("labels.without.1.TestTimeouts.log", "plain")
    suite = synthetic.suite()
    plain.feed(html.render(run, suite, summarise(run, suite)))
    assert hostile.tags <= plain.tags
    assert hostile.attributes <= plain.attributes
    assert not {"script", "iframe", "img", "link", "base", "form"} & hostile.tags


@pytest.fixture
def opened(chromium, page, tmp_path):
    """The hostile page in a browser, with a list of all that it tried to do."""
    path = tmp_path / "report.html"
    path.write_bytes(page(**HOSTILE_RUN).encode())
    context = chromium.new_context()
    tab = context.new_page()
    events = []
    tab.on("request", lambda request: events.append(f"request {request.url}"))
    tab.on("dialog", lambda dialog: (events.append("dialog"), dialog.dismiss()))
    tab.on("console", lambda message: events.append(f"console {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error {error}"))
    context.on("page", lambda other: events.append("window"))
    tab.goto(path.as_uri())
    yield tab, events, path
    context.close()


@pytest.mark.browser
def test_in_a_real_browser_hostile_text_runs_loads_and_changes_nothing(opened):
    tab, events, path = opened
    for summary in tab.locator("details > summary").all():
        summary.evaluate("summary => summary.parentElement.open = true")
    tab.mouse.move(400, 400)
    tab.wait_for_timeout(500)
    assert events == [f"request {path.as_uri()}"]
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("[id^=breakout], script, iframe, img, form, base, link").count() == 0
    assert tab.evaluate("document.styleSheets.length") == 1
    assert tab.locator("body > footer").is_visible()
    assert 'alert("script")' in tab.locator(".answer").first.inner_text()
    assert "⟨U+202E⟩gnp.exe" in tab.locator(".answer").first.inner_text()


@pytest.fixture
def visits():
    """A local web server and the paths that anybody asked it for."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, seen
        server.shutdown()


@pytest.mark.browser
def test_the_policy_itself_stops_scripts_and_requests(chromium, page, tmp_path, visits):
    """Were escaping ever to fail, the page's policy still holds: here markup is left as it is."""
    port, seen = visits
    markup = HOSTILE.replace("127.0.0.1:9/", f"127.0.0.1:{port}/").replace("refresh", "nothing")
    path = tmp_path / "broken.html"
    tab = chromium.new_page()
    tab.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))

    def pwned(document):
        path.write_bytes(document.encode())
        tab.goto(path.as_uri(), wait_until="commit")
        tab.wait_for_timeout(500)
        return tab.evaluate("window.pwned")

    broken = page().replace("<footer>", f"<footer>{markup}")
    assert pwned(broken) is None
    assert seen == []
    assert pwned(re.sub(r"<meta http-equiv[^>]+>", "", broken)) == 1, "the attack is a real one"
    assert "/link" in seen and "dialog" in seen
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(chromium, page, tmp_path, width, scheme):
    path = tmp_path / "report.html"
    path.write_bytes(page().encode())
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness < 64) == (scheme == "dark")
    context.close()


@pytest.mark.browser
def test_the_keyboard_alone_opens_an_answer(chromium, page, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(page().encode())
    tab = chromium.new_page()
    tab.goto(path.as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the cases"
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.matches('.case > summary')"):
            break
    tab.keyboard.press("Enter")
    assert tab.locator("details.case[open]").count() == 1
    tab.close()
