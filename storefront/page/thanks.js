// The order confirmation: the receipt, six more items, feedback on them, and the timings of the request.

import { post, reportProblems } from "./api.js";
import {
  $, categoryLabel, cloneTemplate, fillText, formatCount, formatDate, formatMoney, formatMs, formatPercent,
  formatPrice, orderTotal, paintTile, textElement,
} from "./dom.js";

const SOURCE_LABELS = {
  ann: "near your taste",
  buy_again: "bought before",
  co_purchase: "goes with your order",
  category: "bestseller of its kind",
  popularity: "popular",
  recency: "new",
  ease: "liked by people like you",
};
let now; // the shop's clock
let order; // {id, userId, ts, lines}
let requestId; // of the slate on the page
let openCard; // [card, item] of the product dialog

/** Show that an order was paid, and six more items. */
export async function showConfirmation(paidOrder, clock) {
  [order, now] = [paidOrder, clock];
  const isGuest = order.userId === null;
  $("thanks-title").textContent = isGuest ? "Thank you" : `Thank you, household ${order.userId}`;
  $("paid").textContent = `Order ${order.id.slice(0, 8)} was paid on ${formatDate(order.ts)}.`;
  $("log").replaceChildren();
  showReceipt();
  $("thanks").hidden = false;
  $("thanks-title").focus();
  await recommend();
}

function showReceipt() {
  const rows = order.lines.map((line) =>
    cloneTemplate("receipt", {
      quantity: `${line.quantity} ×`,
      title: line.title,
      price: formatMoney(line.price * line.quantity),
    }),
  );
  $("receipt").replaceChildren(...rows);
  $("paid-total").textContent = formatMoney(orderTotal(order.lines));
}

// Six more items

async function recommend() {
  $("more").hidden = false;
  $("slate").replaceChildren();
  $("slate-status").textContent = "Looking for six more …";
  $("how").hidden = $("again").hidden = true;
  const basket = order.lines.map(({ item_id, quantity, price }) => ({ item_id, quantity, price }));
  const checkout = { user_id: order.userId, order_id: order.id, ts: order.ts, basket };
  const succeeded = await reportProblems(async () =>
    showSlate(await post("/v1/recommendations", checkout)),
  );
  if (!succeeded) {
    $("slate-status").textContent = "They could not be found just now. Your order is safe.";
  }
  $("again").hidden = succeeded;
}

function showSlate(slate) {
  requestId = slate.request_id;
  $("more").hidden = slate.withheld; // an experiment measures what the slot adds: show no trace of it
  if (slate.withheld) return;
  $("slate").replaceChildren(...slate.items.map((item) => cardElement(item, slate.tier)));
  const count = formatCount(slate.items.length, "item", "items");
  $("slate-status").textContent = `${count} to add to your order.`;
  showTimings(slate);
}

function itemTexts(item) {
  const { title, item_id } = item;
  return {
    title,
    item_id,
    category: categoryLabel(item.category),
    price: formatPrice(item.price),
    click: formatPercent(item.click),
    purchase: formatPercent(item.purchase),
    value: item.value === null ? "–" : formatMoney(item.value),
  };
}

const sourceLabel = (source) => SOURCE_LABELS[source] ?? source;

/** The tier of an item: a ranked slate is topped up with items that have no predictions. */
const tierOf = (item, tier) => (tier === "ranked" && item.predictions === null ? item.sources[0] : tier);

function cardElement(item, tier) {
  const card = cloneTemplate("card", { ...itemTexts(item), tier: tierOf(item, tier) });
  card.dataset.item = item.item_id;
  paintTile(card.querySelector(".tile"), item);
  const chips = item.sources.map((source) => {
    const chip = textElement("li", sourceLabel(source));
    chip.dataset.source = chip.title = source;
    return chip;
  });
  card.querySelector(".why").replaceChildren(...chips);
  const addButton = card.querySelector(".add");
  addButton.setAttribute("aria-label", `Add ${item.title} to the order`);
  addButton.addEventListener("click", () => addToOrder(card, item));
  card.querySelector(".open").addEventListener("click", () => openProduct(card, item));
  return card;
}

// Clicks and purchases

async function openProduct(card, item) {
  openCard = [card, item];
  fillText($("product"), itemTexts(item));
  paintTile($("product").querySelector(".tile"), item);
  const reasons = item.sources.map((source) => textElement("li", `${sourceLabel(source)} (${source})`));
  $("product").querySelector(".reasons").replaceChildren(...reasons);
  $("product").querySelector(".add").disabled = card.classList.contains("bought");
  $("product").showModal();
  if (!card.classList.contains("clicked")) {
    card.classList.add("clicked");
    const isLogged = await reportProblems(() => sendFeedback("click", item));
    card.classList.toggle("clicked", isLogged);
  }
}

async function addToOrder(card, item) {
  const button = card.querySelector(".add");
  button.disabled = true;
  const isBought = await reportProblems(async () => {
    const line = { item_id: item.item_id, quantity: 1, price: item.price };
    if (order.userId !== null) {
      const order_id = `${order.id}+${item.item_id}`;
      const ts = Math.max(now(), order.ts + 1); // purchases of one second count as one order
      await post("/v1/checkouts", { user_id: order.userId, order_id, ts, basket: [line] });
    }
    await sendFeedback("purchase", item, item.price);
    order.lines.push({ ...line, title: item.title });
  });
  button.disabled = isBought;
  if (!isBought) return;
  card.classList.add("bought");
  button.textContent = "In your order ✓";
  showReceipt();
}

async function sendFeedback(kind, item, value = null) {
  const request = { request_id: requestId, user_id: order.userId, item_id: item.item_id };
  await post("/v1/feedback", { kind, ...request, ts: now(), value });
  $("log").append(textElement("li", `${kind} of ${item.title} noted`));
}

// Timings

function showTimings({ timings, tier, reason, request_id, bundle_version }) {
  const { total, queue = 0, ...stages } = timings;
  const betweenStages = total - Object.values(stages).reduce((sum, time) => sum + time, 0);
  const parts = Object.entries({ queue, ...stages, "all else": Math.max(betweenStages, 0) });
  $("took").textContent = `${formatMs(total + queue)} of the ${$("took").dataset.deadline} ms it may take.`;
  const bars = parts.map(([, time]) => {
    const bar = textElement("span", "");
    bar.style.flexGrow = time;
    return bar;
  });
  $("bar").replaceChildren(...bars);
  const rows = parts.map(([stage, time]) => definitionElement(stage.replace("_", " "), formatMs(time)));
  $("stages").replaceChildren(...rows);
  const facts = { tier, request: request_id, bundle: bundle_version, ...(reason && { reason }) };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => definitionElement(name, value)));
  $("how").hidden = false;
}

function definitionElement(name, value) {
  const row = document.createElement("div");
  row.append(textElement("dt", name), textElement("dd", value));
  return row;
}

$("again").addEventListener("click", recommend);
$("product").querySelector(".close").addEventListener("click", () => $("product").close());
$("product").querySelector(".add").addEventListener("click", () => {
  $("product").close(); // a problem would lie behind it
  addToOrder(...openCard);
});
