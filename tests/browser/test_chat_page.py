"""The chat's page in a real browser: people talk, lose their connection, are attacked.

One server and two browsers serve all of these tests; each has a room of its own.
"""

import signal
from collections.abc import Iterator

import pytest
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.chat_page import Line, Page, Server
from tests.browser.chromium import open_browser

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


@pytest.fixture(scope="module")
def server(warm: None) -> Iterator[Server]:
    """The program, running."""
    chat = Server()
    chat.start()
    yield chat
    chat.stop()


@pytest.fixture(scope="module")
def pages() -> Iterator[tuple[Page, Page]]:
    """Two people's browsers."""
    with open_browser() as one, open_browser() as other:
        yield Page(one), Page(other)


@pytest.fixture
def ann(pages: tuple[Page, Page]) -> Iterator[Page]:
    """One of them; afterwards, the browser has nothing to complain of."""
    page = pages[0]
    page.resize(1_024)
    page.errors()
    yield page
    assert page.errors() == []


@pytest.fixture
def bob(pages: tuple[Page, Page]) -> Page:
    """The other one."""
    pages[1].resize(1_024)
    return pages[1]


def test_two_people_talk(server, ann, bob):
    """They see each other come, type, talk, change names and leave; links can be followed."""
    ann.open(server.port, "Ann", "talk")
    bob.open(server.port, "Bob", "talk")
    ann.until(lambda: ann.people == ["Ann", "Bob"] == bob.people)

    ann.find("#text").send_keys("Look: ")
    bob.until(lambda: bob.texts("#typing") == ["Ann is typing …"])
    ann.say("https://example.org/a_(b)?c=d, and hello Bob")
    bob.until_said("Look: https://example.org/a_(b)?c=d, and hello Bob")
    link = bob.find(".text a")
    assert link.get_attribute("href") == "https://example.org/a_(b)?c=d"
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert "mentioned" in bob.find(".message").get_attribute("class")
    assert bob.texts(".head b") == ["Ann"]
    assert bob.find(".message time").get_attribute("datetime").startswith("20")

    bob.say("one", "two")
    ann.until(lambda: ann.said[1:] == ["one", "two"])
    bob.say("/nick Robert")
    ann.until(lambda: ann.people == ["Ann", "Robert"])
    assert "Bob is now Robert" in ann.texts(".note")[-1]
    bob.browser.get("about:blank")
    ann.until(lambda: ann.people == ["Ann"])


def test_history_and_reload(server, ann, bob):
    """Who comes later reads what was said; a reload shows it again, under the same name."""
    ann.open(server.port, "Ann", "history")
    ann.say(*"abc")
    ann.until_said(*"abc")
    bob.open(server.port, "Bob", "history")
    bob.until_said(*"abc")
    ann.browser.refresh()
    ann.until(lambda: ann.status == "Connected")
    ann.until_said(*"abc")
    ann.until(lambda: ann.people == ["Ann", "Bob"])


def test_a_connection_is_cut(server, ann, bob):
    """It is shown, and made anew; what was said meanwhile on either side arrives, once."""
    line = Line(server.port)
    try:
        ann.open(server.port, "Ann", "cut")
        bob.open(line.port, "Bob", "cut")
        ann.say("before")
        bob.until_said("before")
        line.cut()
        bob.until(lambda: bob.status.startswith("Not connected"))
        assert bob.find("#retry").is_displayed()
        ann.say("one", "two")
        ann.until_said("before", "one", "two")
        bob.say("three", "four")
        bob.until(lambda: bob.texts(".waiting .state") == ["Waiting to be sent"] * 2)
        line.mend()
        everything = ("before", "one", "two", "three", "four")
        bob.until(lambda: bob.status == "Connected")
        ann.until_said(*everything)
        bob.until(lambda: bob.texts(".waiting .message") == [])
        bob.until_said(*everything)
        ann.until(lambda: ann.people == ["Ann", "Bob"])
    finally:
        line.close()


TWICE = """
const { Log } = await import("/log.js");
const log = new Log("twice");
const show = (seq, id) => log.show({ id, seq, log: "a", nick: "Ann", text: id, time: seq }, {});
const shown = [show(1, "one"), show(2, "one"), show(3, "two"), show(5, "two"), show(6, "three")];
return [shown, [...log.node.querySelectorAll(".note")].map((note) => note.textContent)];
"""


def test_a_message_that_comes_twice_is_shown_once_and_nothing_is_missing(server, ann):
    """With one id and two numbers, as by way of two machines."""
    ann.open(server.port, "Ann", "twice")
    shown, notes = ann.script(TWICE)
    assert shown == [True, False, True, False, True]
    assert notes == ["1 messages are missing here."]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_is_started_anew(server, ann, bob, number):
    """Both pages come back by themselves, keep what they show, and send what was typed."""
    room = f"anew-{number}"
    ann.open(server.port, "Ann", room)
    bob.open(server.port, "Bob", room)
    ann.say("before")
    bob.until_said("before")
    status = server.stop(number)
    try:
        assert status == (0 if number == signal.SIGTERM else -number)
        for page in (ann, bob):
            page.until(lambda page=page: page.status.startswith("Not connected"))
        if number == signal.SIGTERM:
            assert "The server is shutting down." in ann.texts(".note")
        ann.say("from Ann")
        bob.say("from Bob")
        ann.until_said("before", "from Ann")
    finally:
        server.start()
    for page in (ann, bob):
        page.script("document.getElementById('retry').click()")
        page.until(lambda page=page: page.status == "Connected")
        page.until(lambda page=page: page.texts(".waiting .message") == [])
        page.until(lambda page=page: sorted(page.said) == ["before", "from Ann", "from Bob"])
        page.until(lambda page=page: page.people == ["Ann", "Bob"])
    ann.say("after")
    bob.until(lambda: bob.said[-1] == "after")
    assert any("started anew" in line for line in ann.texts(".note"))


HOSTILE = (
    "<script>window.ran = 1</script>",
    '<img src=x onerror="window.ran = 1">',
    "<svg onload=window.ran=1><b>bold</b>",
    "javascript:window.ran=1",
    'https://a.example/"onmouseover="window.ran=1',
    "&lt;b&gt; ${window.ran=1} {{window.ran=1}}",
)


def test_hostile_names_and_messages_do_not_run(server, ann, bob):
    """Whatever a name or a message says is shown as it was typed, and nothing else happens."""
    name = "<img src=q onerror=x()>"
    ann.open(server.port, "Ann", "hostile")
    ann.script("window.x = () => { window.ran = 1 }")
    bob.open(server.port, name, "hostile")
    bob.say(*HOSTILE)
    ann.until_said(*HOSTILE)
    assert name in ann.people
    assert set(ann.texts(".head b")) == {name}
    bob.say("/nick <i>i</i>")
    ann.until(lambda: "<i>i</i>" in ann.people)
    assert ann.script("return window.ran") is None
    assert bob.script("return window.ran") is None
    assert (
        ann.script("return document.querySelectorAll('#logs :is(img, script, svg, i)').length") == 0
    )
    links = [
        one.get_attribute("href") for one in ann.browser.find_elements("css selector", ".text a")
    ]
    assert links == ["https://a.example/"]


def test_the_policy_would_stop_what_got_through(server, ann):
    """Were markup to reach the page all the same, the browser would refuse to run it."""
    ann.open(server.port, "Ann", "policy")
    ann.script("window.refused = []; addEventListener('securitypolicyviolation', "
               "(event) => refused.push(event.effectiveDirective))")  # fmt: skip
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        ann.script("document.body.innerHTML = '<b>x</b>'")
    ann.script("const script = document.createElement('img'); script.src = '//127.0.0.2:9/x';"
               "document.body.append(script)")  # fmt: skip
    ann.until(lambda: {"require-trusted-types-for", "img-src"} <= set(ann.script("return refused")))
    assert ann.errors()


def test_unread_messages_are_marked(server, ann, bob):
    """A room that is not looked at counts what is said there, and shows where it begins."""
    ann.open(server.port, "Ann", "unread")
    ann.say("/join elsewhere")
    ann.until(lambda: ann.find("#title").text == "elsewhere")
    bob.open(server.port, "Bob", "unread")
    bob.say("one", "two")
    ann.until(
        lambda: ann.texts("#rooms .badge") == ["2 unread"] or ann.texts("#rooms .badge") == ["2"]
    )
    assert ann.browser.title.startswith("(2) ")
    ActionChains(ann.browser).key_down(Keys.ALT).send_keys(Keys.ARROW_UP).key_up(Keys.ALT).perform()
    ann.until_said("one", "two")
    assert ann.texts(".marker") == ["New messages"]
    assert ann.texts("#rooms .badge") == []
    assert not ann.browser.title.startswith("(")

    bob.say(*(f"line {number}" for number in range(15)))
    ann.until(lambda: len(ann.said) == 17)
    ann.resize(1_024, 400)
    ann.script("document.querySelector('.room:not([hidden]) .entries').scrollTop = 0")
    ann.until(lambda: ann.texts("#newer") == ["↓ To the end"])
    bob.say("far below")
    ann.until(lambda: ann.texts("#newer") == ["↓ 1 new"])
    ann.find("#newer").click()
    ann.until(lambda: ann.texts("#newer") == [])


def test_the_keyboard_is_enough(server, ann):
    """Enter sends, Shift+Enter does not; the drawer opens and closes; commands are answered."""
    ann.resize(320)
    ann.open(server.port, "Ann", "keys")
    keys = ActionChains(ann.browser)
    keys.send_keys("one").key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT)
    keys.send_keys("two", Keys.ENTER).perform()
    ann.until_said("one\ntwo")
    ann.script("document.getElementById('menu').focus()")
    ActionChains(ann.browser).send_keys(Keys.ENTER).perform()
    ann.until(lambda: ann.find("#rooms").is_displayed())
    assert ann.find("#menu").get_attribute("aria-expanded") == "true"
    assert ann.script("return document.activeElement.closest('#rooms') !== null")
    ActionChains(ann.browser).send_keys(Keys.ESCAPE).perform()
    ann.until(lambda: not ann.find("#rooms").is_displayed())
    assert ann.script("return document.activeElement.id") == "text"
    ActionChains(ann.browser).send_keys("/help", Keys.ENTER).perform()
    ann.until(lambda: any("/join ROOM" in text for text in ann.texts(".note")))
    ActionChains(ann.browser).send_keys("/nonsense", Keys.ENTER).perform()
    ann.until(lambda: any("there is no /nonsense" in text for text in ann.texts(".note")))


def test_a_message_that_is_too_long(server, ann):
    """The length is shown before it is too much, and what is too long is not sent."""
    ann.open(server.port, "Ann", "long")
    ann.script("const field = document.getElementById('text'); field.value = 'x'.repeat(2001);"
               "field.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert ann.find("#counter").text == "2001 of 2000"
    ann.find("#text").send_keys(Keys.ENTER)
    assert ann.find("#text").get_attribute("value") == "x" * 2001
    ann.find("#text").send_keys(Keys.BACKSPACE, Keys.ENTER)
    ann.until_said("x" * 2000)


def test_a_name_that_will_not_do(server, ann):
    """One is told so and asked again."""
    ann.browser.get(f"http://127.0.0.1:{server.port}/style.css")
    ann.script("localStorage.clear(); sessionStorage.clear()")
    ann.browser.get(f"http://127.0.0.1:{server.port}/#names")
    ann.find("#nick").send_keys("   ", Keys.ENTER)
    ann.until(lambda: ann.texts("#complaint") == ["a name has 1 to 24 characters"])
    ann.find("#nick").send_keys("Ann", Keys.ENTER)
    ann.until(lambda: ann.people == ["Ann"])


def test_a_session_is_taken_over(server, ann):
    """A tab that is duplicated goes on; the old one says so, and can take it back."""
    ann.open(server.port, "Ann", "tabs")
    session = ann.script("return sessionStorage.getItem('session')")
    first = ann.browser.current_window_handle
    ann.browser.switch_to.new_window("tab")
    ann.browser.get(f"http://127.0.0.1:{server.port}/#tabs")
    ann.script("sessionStorage.setItem('session', arguments[0])", session)
    ann.browser.refresh()
    ann.until(lambda: ann.people == ["Ann"])
    ann.browser.switch_to.window(first)
    ann.until(lambda: ann.status == "Open in another window")
    ann.find("#retry").click()
    ann.until(lambda: ann.status == "Connected")
    for window in ann.browser.window_handles:
        if window != first:
            ann.browser.switch_to.window(window)
            ann.until(lambda: ann.status == "Open in another window")
            ann.browser.close()
    ann.browser.switch_to.window(first)


SIZES = [(width, scheme) for width in (320, 768, 1440) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_sizes_and_schemes(server, ann, bob, width, scheme):
    """Everything fits on the screen in both schemes, and axe finds nothing wrong."""
    room = f"size-{width}-{scheme}"
    ann.resize(width)
    ann.prefer(scheme)
    ann.open(server.port, "Ann", room)
    bob.open(server.port, "Bob", room)
    bob.say("A " + "long" * 100, "https://example.org/" + "x" * 200, "Hello Ann")
    ann.until(lambda: len(ann.said) == 3)
    ann.say("/who", "/help", "own")
    ann.until(lambda: ann.said[-1] == "own")

    wide = ann.script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide == [width, width]
    box = ann.find("#composer").rect
    assert box["y"] + box["height"] < 701
    assert ann.find("#people").is_displayed() == (width >= 768)
    ground = ann.script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    assert ann.violations() == []
    if width == 320:
        ann.find("#menu").click()
        assert ann.violations() == []
    ann.prefer("")


def test_axe_on_the_first_question_and_without_a_connection(server, ann):
    """Nothing is wrong with the dialog, nor with the page that is not connected."""
    line = Line(server.port)
    try:
        ann.open(line.port, "Ann", "axe")
        line.cut()
        ann.until(lambda: ann.status.startswith("Not connected"))
        ann.say("waits")
        assert ann.violations() == []
        line.mend()
        ann.script("sessionStorage.clear()")
        ann.browser.refresh()
        ann.until(lambda: ann.find("#welcome").is_displayed())
        assert ann.violations() == []
    finally:
        line.close()
