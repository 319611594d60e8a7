// An input with suggestions below, by the ARIA 1.2 combobox pattern.

import { element } from "./dom.js";

const PAUSE = 120; // ms without a key before it asks

/**
 * `ask(text)` gives what is suggested, `show(found)` the content of an option as nodes, `pick(found)` is told
 * what was chosen.
 */
export function combobox(input, { ask, show, pick }) {
  const list = document.getElementById(input.getAttribute("aria-controls"));
  let found = [];
  let active = -1;
  let asked = 0;
  let timer = 0;

  const options = () => [...list.children];

  function point(at) {
    active = at;
    for (const [place, option] of options().entries()) {
      option.setAttribute("aria-selected", place === at);
    }
    if (at < 0) {
      input.removeAttribute("aria-activedescendant");
    } else {
      input.setAttribute("aria-activedescendant", list.children[at].id);
      list.children[at].scrollIntoView({ block: "nearest" });
    }
  }

  function close() {
    asked += 1; // what is still on its way comes too late
    clearTimeout(timer);
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    point(-1);
  }

  function choose(at) {
    const chosen = found[at];
    if (!chosen) return;
    close();
    input.value = "";
    pick(chosen);
  }

  async function open() {
    const mine = ++asked;
    const answer = await ask(input.value.trim());
    if (mine !== asked) return;
    found = answer;
    const made = found.map((one, place) => {
      const option = element("li", "");
      option.append(...show(one));
      option.addEventListener("click", () => choose(place));
      return option;
    });
    list.replaceChildren(...(made.length ? made : [element("li", "Nothing found", "none")]));
    for (const [place, option] of options().entries()) {
      option.id = `${list.id}-${place}`;
      option.setAttribute("role", "option");
    }
    if (!made.length) list.firstChild.setAttribute("aria-disabled", "true");
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    point(found.length && input.value.trim() ? 0 : -1);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(open, PAUSE);
  });
  input.addEventListener("click", open);
  input.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (list.hidden) open();
      else if (found.length) point((active + step + found.length + (active < 0 && step < 0)) % found.length);
    } else if (event.key === "Enter") {
      choose(active);
    } else if (event.key === "Escape") {
      close();
    }
  });
}
