"""Take the pictures of the chat's page that the documentation shows.

    python -m tests.browser.take_screenshots

Run it when the page's looks have changed, and look at what it made.
"""

from pathlib import Path

from tests.browser.chat_page import Line, Page, Server
from tests.browser.chromium import open_browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZES = ((320, 640), (768, 640), (1_440, 760))


def converse(ann: Page, bob: Page, eve: Page, port: int) -> None:
    """Have three people say what a picture should show."""
    eve.open(port, "Ève", "garden")
    ann.open(port, "Ann", "lobby")
    bob.open(port, "Bob", "lobby")
    ann.say("Good morning! Has anyone tried the new release?", "Notes: https://example.org/notes")
    bob.until(lambda: len(bob.said) == 2)
    bob.say("Morning, Ann. I pulled the cable in mid-sentence, and everything came through later.")
    bob.say("<b>Bold</b> claims are shown as they are typed.")
    ann.until(lambda: len(ann.said) == 4)
    ann.say("/join garden")
    ann.until(lambda: ann.find("#title").text == "garden")
    ann.script("location.hash = 'lobby'")
    ann.until(lambda: ann.find("#title").text == "lobby")
    eve.say("The tomatoes are ripe", "at last")
    ann.until(lambda: ann.texts("#rooms .badge") == ["2 unread"] or ann.texts("#elsewhere"))
    ann.say("Reassuring. Does it take Größe and Ελλάδα too?")
    bob.until(lambda: len(bob.said) == 5)
    bob.find("#text").send_keys("Of course")
    ann.until(lambda: ann.texts("#typing") == ["Bob is typing …"])


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(exist_ok=True)
    server = Server()
    server.start()
    line = Line(server.port)
    try:
        with open_browser() as one, open_browser() as two, open_browser() as three:
            ann, bob = Page(one), Page(two)
            ann.resize(1_440, 760)
            converse(ann, bob, Page(three), line.port)
            for width, height in SIZES:
                for scheme in ("light", "dark"):
                    ann.resize(width, height)
                    ann.prefer(scheme)
                    ann.script("document.activeElement.blur()")
                    bob.find("#text").send_keys(".")
                    ann.until(lambda: ann.texts("#typing") == ["Bob is typing …"])
                    one.save_screenshot(str(IMAGES / f"chat-{width}-{scheme}.png"))
            ann.resize(320, 640)
            ann.find("#menu").click()
            one.save_screenshot(str(IMAGES / "chat-320-people.png"))
            ann.script("document.getElementById('shade').click()")
            line.cut()
            ann.until(lambda: ann.status.startswith("Not connected"))
            ann.say("Written in a tunnel")
            one.save_screenshot(str(IMAGES / "chat-320-away.png"))
    finally:
        line.close()
        server.stop()


if __name__ == "__main__":
    main()
