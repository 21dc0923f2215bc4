// Beside the conversation: which rooms there are, who is there, and the drawer for small screens.

import { element, hue } from "./log.js";

const $ = (id) => document.getElementById(id);

/** List rooms; `current` is the one that is shown, `act` has `select(room)` and `leave(room)`. */
export function showRooms(logs, current, act) {
  const items = logs.map((log) => {
    const button = element("button", { type: "button", className: "room-button" },
      element("span", { className: "name", textContent: log.room }));
    if (log.unread) button.append(badge(log.unread));
    if (log === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => act.select(log.room));
    const leave = element("button", { type: "button", className: "leave", textContent: "×" });
    leave.setAttribute("aria-label", `Leave ${log.room}`);
    leave.addEventListener("click", () => act.leave(log.room));
    return element("li", {}, button, ...(logs.length > 1 ? [leave] : []));
  });
  replace($("rooms"), items);
  const unread = logs.reduce((sum, log) => sum + log.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${current?.room ?? "Chat"} · triows chat`;
  const elsewhere = unread - (current?.unread ?? 0);
  $("elsewhere").hidden = !elsewhere;
  $("elsewhere").replaceChildren(...badge(elsewhere).childNodes);
}

/** Put new nodes in the place of old ones; the focus stays on the same line. */
function replace(list, items) {
  const index = [...list.children].findIndex((item) => item.contains(document.activeElement));
  list.replaceChildren(...items);
  if (index >= 0) items.at(index)?.querySelector("button")?.focus();
}

function badge(unread) {
  return element("span", { className: "badge" }, String(unread),
    element("span", { className: "sr", textContent: " unread" }));
}

/** List people, with oneself marked. */
export function showPeople(people, own) {
  const sorted = [...people].sort((one, other) => one.localeCompare(other));
  $("count").textContent = sorted.length;
  $("people").replaceChildren(...sorted.map((nick) => {
    const item = element("li", { textContent: nick });
    item.style.setProperty("--hue", hue(nick));
    if (nick === own) item.append(element("span", { className: "quiet", textContent: " you" }));
    return item;
  }));
}

/** Say who is typing. */
export function showTypists(names) {
  const verb = names.length > 1 ? "are" : "is";
  const who = names.length > 3 ? "Several people" : names.join(", ");
  $("typing").textContent = names.length ? `${who} ${verb} typing …` : "";
}

/** Show or hide all this, where the screen is too narrow to show it always. */
export function openSide(isOpen) {
  document.body.classList.toggle("open", isOpen);
  $("menu").setAttribute("aria-expanded", isOpen);
  $("shade").hidden = !isOpen;
  $("main").inert = isOpen;
  if (isOpen) $("rooms").querySelector("button")?.focus();
  else if (document.activeElement?.closest("#side")) $("text").focus();
}

$("menu").addEventListener("click", () => openSide(!document.body.classList.contains("open")));
$("shade").addEventListener("click", () => openSide(false));
