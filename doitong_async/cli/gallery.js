"use strict";
// Everything that came from outside is read as text and written as text: no markup is made here.
const root = document.documentElement;
root.classList.add("js");
const kept = {
  read() { try { return localStorage.getItem("gallery-theme"); } catch { return null; } },
  write(theme) { try { localStorage.setItem("gallery-theme", theme); } catch { /* not kept, then */ } },
};
if (["dark", "light"].includes(kept.read())) root.dataset.theme = kept.read();

document.addEventListener("DOMContentLoaded", () => {
  const at = (id) => document.getElementById(id);
  const [list, search, provider, box, stage] = ["cards", "search", "provider", "box", "stage"].map(at);
  const sheets = Array.from(list.children);
  const cards = sheets.flatMap((sheet) => Array.from(sheet.children));
  const full = sheets[0]?.children.length;
  const totals = Array.from(document.querySelectorAll(".totals button"));
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const frameOf = (card) => card.querySelector(".frame");
  let shown = cards;
  let current = null;
  let viewed = null;
  let outcome = "";

  // Search and filters
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  let texts = null;
  const textOf = (card) => plain([card.dataset.key, card.dataset.job, card.dataset.why, card.textContent].join(" "));
  function filter() {
    const words = plain(search.value).split(/\s+/).filter(Boolean);
    if (words.length) texts ??= cards.map(textOf);
    const fits = (card, n) =>
      (!outcome || card.dataset.outcome === outcome) &&
      (!provider.value || card.dataset.provider === provider.value) &&
      words.every((word) => texts[n].includes(word));
    shown = cards.filter(fits);
    lay();
    list.classList.toggle("none", cards.length > 0 && !shown.length);
    for (const button of totals) button.setAttribute("aria-pressed", String(button.dataset.outcome === outcome));
    const all = cards.length.toLocaleString("en");
    at("count").textContent = shown.length === cards.length ? `${all} shown` : `${shown.length.toLocaleString("en")} of ${all}`;
  }
  // What does not fit leaves the page, and the rest moves up: a page of ten cards is as quick as it looks.
  function lay() {
    const used = sheets.slice(0, Math.ceil(shown.length / full));
    used.forEach((sheet, n) => {
      const mine = shown.slice(n * full, (n + 1) * full);
      if (mine.length !== sheet.children.length || mine.some((card, place) => card !== sheet.children[place])) {
        sheet.replaceChildren(...mine);
      }
    });
    if (used.length !== list.children.length) list.replaceChildren(...used);
  }
  function refilter() {
    filter();
    // The first match is what one wants to see, not the place where one happened to be.
    const top = list.getBoundingClientRect().top + scrollY - document.querySelector(".bar").offsetHeight - 16;
    if (scrollY > top) scrollTo(0, top);
  }
  let soon = 0;
  search.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(refilter, 90); });
  provider.addEventListener("change", refilter);
  for (const button of totals) {
    button.disabled = false;
    button.addEventListener("click", () => { outcome = button.dataset.outcome === outcome ? "" : button.dataset.outcome; refilter(); });
  }
  at("clear").addEventListener("click", () => { search.value = provider.value = outcome = ""; refilter(); search.focus(); });
  const names = [...new Set(cards.map((card) => card.dataset.provider))].sort();
  provider.append(...names.map((name) => new Option(name, name)));
  provider.hidden = names.length < 2;
  filter();

  at("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    kept.write((root.dataset.theme = now === "dark" ? "light" : "dark"));
  });

  // Cards
  for (const frame of list.querySelectorAll("div.frame")) {
    frame.tabIndex = 0;
    frame.setAttribute("role", frame.querySelector("video, audio") ? "group" : "button");
    frame.setAttribute("aria-label", `${frame.textContent.trim()} ${frame.nextElementSibling.textContent.slice(0, 100)}`);
  }
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) { target.controls = false; target.preload = "metadata"; } else target.pause();
    }
  }, { rootMargin: "400px" });
  for (const video of list.querySelectorAll("video")) near.observe(video);
  const video = (event) => event.target.closest(".card")?.querySelector("video");
  list.addEventListener("pointerover", (event) => {
    const prompt = event.target.closest(".prompt");
    if (prompt && !prompt.title) prompt.title = prompt.textContent;
    if (!calm.matches) video(event)?.play().catch(() => {});
  });
  list.addEventListener("pointerout", (event) => {
    if (!event.target.closest(".card").contains(event.relatedTarget)) video(event)?.pause();
  });
  list.addEventListener("focusin", (event) => { current = event.target.closest(".card") ?? current; });
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (event.target.closest(".file, audio") || String(getSelection())) return;
    event.preventDefault();
    open(card);
  });

  // Lightbox
  function make(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  function picture(card) {
    const { kind } = card.dataset;
    const link = card.querySelector(".file");
    if (kind === "image") return make("img", { src: link.href, alt: card.querySelector("img").alt });
    if (kind === "video") return make("video", { src: link.href, controls: true, loop: true, muted: true, autoplay: !calm.matches });
    if (kind === "audio") return make("audio", { src: link.href, controls: true });
    return make("div", { className: "note" }, ...[...frameOf(card).children].map((child) => child.cloneNode(true)));
  }
  function details(card) {
    const text = (selector) => card.querySelector(selector)?.textContent;
    const { key, job, size, outcome, provider, why } = card.dataset;
    const link = card.querySelector(".file");
    const rows = [
      ["Outcome", outcome.replace("_", " ")], ["Reason", why], ["Provider", provider],
      ["Cost", text(".credits")], ["Time", text(".seconds")], ["Asked for", size && `${size} pixels`],
      ["Key", key], ["Job", job],
      ["File", link && make("a", { href: link.href, textContent: link.title.replace("Open ", "") })],
    ];
    return rows.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { dir: "auto" }, value)]);
  }
  function show(card) {
    viewed = card;
    const place = shown.indexOf(card);
    const prompt = at("full");
    prompt.textContent = card.querySelector(".prompt").textContent;
    prompt.classList.toggle("long", prompt.textContent.length > 280);
    at("details").replaceChildren(...details(card));
    at("place").textContent = `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
    at("back").disabled = place <= 0;
    at("next").disabled = place === shown.length - 1;
    at("side").scrollTop = 0;
    stage.className = `stage ${card.dataset.outcome}`;
    stage.querySelector(":scope > :not(.step)")?.remove();
    stage.prepend(picture(card));
    const beside = shown[place + 1]?.querySelector("img");
    if (beside) beside.loading = "eager";
  }
  function open(card) { show(card); box.showModal(); box.focus(); }
  function step(by) { const card = shown[shown.indexOf(viewed) + by]; if (card) show(card); }
  at("back").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("close").addEventListener("click", () => box.close());
  stage.addEventListener("click", (event) => { if (event.target === stage) box.close(); });
  box.addEventListener("close", () => {
    stage.querySelector(":scope > :not(.step)")?.remove();
    // Not where the focus was when it opened, which is where a dialog gives it back to.
    go(viewed);
  });

  // Keys
  function go(card) {
    if (!card) return;
    current = card;
    card.scrollIntoView({ block: "nearest" });
    frameOf(card).focus({ preventScroll: true, focusVisible: true });
  }
  const inSight = () => shown.find((card) => card.getBoundingClientRect().top >= document.querySelector(".bar").getBoundingClientRect().bottom) ?? shown[0];
  function move(by) {
    const place = shown.indexOf(current);
    if (place < 0 || !list.contains(document.activeElement)) return go(place < 0 ? inSight() : current);
    return go(shown[Math.max(0, Math.min(shown.length - 1, place + by))]);
  }
  const columns = () => getComputedStyle(list.firstElementChild).gridTemplateColumns.split(" ").length;
  const moves = {
    ArrowRight: () => 1, ArrowLeft: () => -1, j: () => 1, k: () => -1,
    ArrowDown: columns, ArrowUp: () => (shown.indexOf(current) < columns() ? 0 : -columns()), Home: () => -shown.length, End: () => shown.length,
  };
  const steps = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("video, audio")) return;
    if (box.open) {
      if (steps[key]) { event.preventDefault(); step(steps[key]); }
    } else if (target === search) {
      if (key === "Escape") { search.value = ""; refilter(); }
      if (["ArrowDown", "Enter"].includes(key)) { event.preventDefault(); clearTimeout(soon); refilter(); go(shown[0]); }
    } else if (key === "/") {
      event.preventDefault(); search.focus(); search.select();
    } else if ((key === "Enter" || key === " ") && target.matches("div.frame")) {
      event.preventDefault(); open(target.closest(".card"));
    } else if (moves[key] && target !== provider) {
      if (["Home", "End"].includes(key) && !list.contains(target)) return;
      event.preventDefault(); move(moves[key]());
    }
  });
});
