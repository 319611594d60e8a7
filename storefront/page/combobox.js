// An input with suggestions below, by the ARIA 1.2 combobox pattern.

import { textElement } from "./dom.js";

const DEBOUNCE_MS = 120;

/**
 * `suggest(text)` returns the suggestions, `renderOption(suggestion)` the nodes of an option, and
 * `onSelect(suggestion)` is called with the selected one.
 */
export function combobox(input, { suggest, renderOption, onSelect }) {
  const list = document.getElementById(input.getAttribute("aria-controls"));
  let suggestions = [];
  let active = -1; // index of the highlighted option
  let requestNumber = 0;
  let timer = 0;

  const options = () => [...list.children];

  function highlight(index) {
    active = index;
    for (const [optionIndex, option] of options().entries()) {
      option.setAttribute("aria-selected", optionIndex === index);
    }
    if (index < 0) {
      input.removeAttribute("aria-activedescendant");
    } else {
      input.setAttribute("aria-activedescendant", list.children[index].id);
      list.children[index].scrollIntoView({ block: "nearest" });
    }
  }

  function close() {
    requestNumber += 1; // a pending response is ignored
    clearTimeout(timer);
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    highlight(-1);
  }

  function select(index) {
    const suggestion = suggestions[index];
    if (!suggestion) return;
    close();
    input.value = "";
    onSelect(suggestion);
  }

  async function open() {
    const number = ++requestNumber;
    const response = await suggest(input.value.trim());
    if (number !== requestNumber) return;
    suggestions = response;
    const suggested = suggestions.map((suggestion, index) => {
      const option = textElement("li", "");
      option.append(...renderOption(suggestion));
      option.addEventListener("click", () => select(index));
      return option;
    });
    list.replaceChildren(...(suggested.length ? suggested : [textElement("li", "Nothing found", "none")]));
    for (const [index, option] of options().entries()) {
      option.id = `${list.id}-${index}`;
      option.setAttribute("role", "option");
    }
    if (!suggested.length) list.firstChild.setAttribute("aria-disabled", "true");
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    highlight(suggestions.length && input.value.trim() ? 0 : -1);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(open, DEBOUNCE_MS);
  });
  input.addEventListener("click", open);
  input.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const count = suggestions.length;
    if (step) {
      event.preventDefault();
      if (list.hidden) open();
      else if (count) highlight((active + step + count + (active < 0 && step < 0)) % count);
    } else if (event.key === "Enter") {
      select(active);
    } else if (event.key === "Escape") {
      close();
    }
  });
}
