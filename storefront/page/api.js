// Asking the service, and telling of what it refuses.

import { $, copy, element } from "./dom.js";

/** What is thrown when the service refuses: RFC 9457 as it came, or the same for a lost connection. */
class Problem extends Error {
  constructor({ status = 0, title = "The shop does not answer", detail = "Is it still open?", errors = [] }) {
    super(detail);
    Object.assign(this, { status, title, detail, errors });
  }
}

async function ask(path, options) {
  let response;
  let said;
  try {
    response = await fetch(path, options);
    said = await response.json();
  } catch {
    throw new Problem({});
  }
  if (!response.ok) throw new Problem(said);
  return said;
}

export const get = (path, parameters = {}) => ask(`${path}?${new URLSearchParams(parameters)}`);

export const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** Do `work`, and show the problem if it ends in one. Returns whether it did not. */
export async function tried(work) {
  $("problem").replaceChildren();
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    show(error);
    return false;
  }
}

function show(problem) {
  const title = problem.status ? `${problem.title} (${problem.status})` : problem.title;
  const shown = copy("problem", { title, detail: problem.detail });
  const fields = problem.errors.map((wrong) => element("li", `${wrong.field}: ${wrong.detail}`));
  shown.querySelector("ul").replaceChildren(...fields);
  shown.querySelector("button").addEventListener("click", () => $("problem").replaceChildren());
  $("problem").replaceChildren(shown);
}
