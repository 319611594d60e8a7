// Requests to the service, and the display of its problems.

import { $, cloneTemplate, textElement } from "./dom.js";

/** A rejected request: the problem of RFC 9457 that came, or the same for a lost connection. */
class Problem extends Error {
  constructor({ status = 0, title = "The shop does not answer", detail = "Is it still open?", errors = [] }) {
    super(detail);
    Object.assign(this, { status, title, detail, errors });
  }
}

async function fetchJson(path, options) {
  let response;
  let responseBody;
  try {
    response = await fetch(path, options);
    responseBody = await response.json();
  } catch {
    throw new Problem({});
  }
  if (!response.ok) throw new Problem(responseBody);
  return responseBody;
}

export const get = (path, parameters = {}) => fetchJson(`${path}?${new URLSearchParams(parameters)}`);

export const post = (path, body) =>
  fetchJson(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

/** Run `action`, and show the problem if it ends in one. Returns whether it succeeded. */
export async function reportProblems(action) {
  $("problem").replaceChildren();
  try {
    await action();
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
    return false;
  }
}

function showProblem(problem) {
  const title = problem.status ? `${problem.title} (${problem.status})` : problem.title;
  const alert = cloneTemplate("problem", { title, detail: problem.detail });
  const fields = problem.errors.map(({ field, detail }) => textElement("li", `${field}: ${detail}`));
  alert.querySelector("ul").replaceChildren(...fields);
  alert.querySelector("button").addEventListener("click", () => $("problem").replaceChildren());
  $("problem").replaceChildren(alert);
}
