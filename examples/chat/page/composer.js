// Where people write: Enter sends, the field grows with the text, its length is watched.

const TYPING_EVERY = 2_000; // milliseconds between two words that someone is typing
const LONG = 0.8; // of the limit, from which on the length is shown

const field = document.getElementById("text");
const form = document.getElementById("composer");
const counter = document.getElementById("counter");

/** `act` has `say(text)`, which returns whether it is done, `typing()`, and the `limit`. */
export function setUpComposer(act) {
  let lastTyping = 0;

  function grow() {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`; // and its borders
    const length = [...field.value].length;
    counter.textContent = length > LONG * act.limit ? `${length} of ${act.limit}` : "";
    counter.classList.toggle("over", length > act.limit);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || [...text].length > act.limit || !act.say(text)) return;
    field.value = "";
    lastTyping = 0;
    grow();
  });

  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });

  field.addEventListener("input", () => {
    grow();
    const now = Date.now();
    if (!field.value || field.value.startsWith("/") || now - lastTyping < TYPING_EVERY) return;
    lastTyping = now;
    act.typing();
  });
}
