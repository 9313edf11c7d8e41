"use strict";
// Everything from the catalog is put on the page as text (textContent) or as an attribute, never as markup.
(() => {
  const PAGE = 40;
  const products = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const card = byId("card").content.firstElementChild;
  const large = byId("large");
  const controls = { find: byId("find"), show: byId("show"), category: byId("category"), sort: byId("sort") };
  const RANK = { failed: 0, fail: 1, held: 2, warn: 3, pass: 4, "": 5 };
  const LABELS = { pass: "QA pass", warn: "QA warn", fail: "QA fail", failed: "Failed", held: "Held", generated: "New", cached: "Cached" };
  let found = products;
  let shown = 0;
  let open = -1;

  const rank = (p) => RANK[p.status === "failed" || p.status === "held" ? p.status : p.verdict];
  products.forEach((p, index) => {
    p.index = index;
    p.text = [p.sku, p.title, p.category, p.status, p.stage, p.error, p.verdict]
      .concat(p.facts.map((f) => f[1]), p.checks.filter((c) => !c[1]).map((c) => c[5])).join(" ").toLowerCase();
  });

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function picture(src, alt, caption, eager) {
    const figure = make("figure");
    const frame = make("div", "", "frame");
    if (src) {
      const image = make("img");
      image.alt = alt;
      if (!eager) image.loading = "lazy";
      image.addEventListener("error", () => frame.replaceChildren(make("span", "file not found")));
      image.src = src;
      frame.append(image);
    } else {
      frame.append(make("span", caption === "Render" ? "no model" : "none"));
    }
    figure.append(frame, make("figcaption", caption));
    return figure;
  }

  function named(p) {
    return p.title || p.sku;
  }

  function drawn(p) {
    const node = card.cloneNode(true);
    const at = (selector) => node.querySelector(selector);
    node.dataset.index = p.index;
    node.setAttribute("aria-label", named(p));
    const enlarge = make("button", "", "enlarge");
    enlarge.type = "button";
    enlarge.setAttribute("aria-label", `Enlarge photo and render of ${named(p)}`);
    enlarge.append(
      picture(p.photo || p.crop, `Photo of ${named(p)}`, "Photo"),
      picture(p.preview, `Render of the model of ${named(p)}`, "Render"));
    enlarge.addEventListener("click", () => enlarged(found.indexOf(p)));
    at(".pictures").append(enlarge);
    if (p.views) {
      const views = picture(p.views, `The model of ${named(p)} from several sides`, "All sides");
      views.className = "views";
      at(".pictures").append(views);
    }
    at("h3").textContent = named(p);
    at(".sku").textContent = p.title ? p.sku : "";
    if (p.category) at(".sku").append(make("span", p.category, "quiet"));
    const tags = at(".tags");
    if (p.verdict) tags.append(make("span", LABELS[p.verdict], `tag ${p.verdict}`));
    tags.append(make("span", LABELS[p.status] || p.status, `tag ${p.status}`));
    if (p.error || p.stage) {
      const trouble = at(".trouble");
      trouble.hidden = false;
      if (p.stage) trouble.append(make("span", p.stage, "stage"), " ");
      trouble.append(p.error || "no reason was recorded");
    }
    p.numbers.filter((n) => n[1] && !(p.status === "failed" && n[0] !== "Cost" && n[0] !== "Time")).forEach(([name, value]) => {
      const pair = make("div");
      pair.append(make("dt", name), make("dd", value));
      at(".numbers").append(pair);
    });
    p.checks.forEach(([name, passed, severity, value, limit, message]) => {
      const row = make("tr", "", passed ? "ok" : severity === "error" ? "bad" : "meh");
      const head = make("th");
      head.scope = "row";
      const mark = make("span", passed ? "✓" : severity === "error" ? "✕" : "!", "mark");
      mark.setAttribute("aria-hidden", "true");
      head.append(mark, make("span", passed ? "passed: " : severity === "error" ? "failed: " : "warning: ", "unseen"), name.replaceAll("_", " "));
      row.append(head, make("td", value), make("td", limit));
      at("tbody").append(row);
      if (message && !passed) {
        const why = make("tr", "", "why");
        const cell = make("td", message);
        cell.colSpan = 3;
        why.append(cell);
        at("tbody").append(why);
      }
      at(".checks").hidden = false;
    });
    p.facts.forEach(([name, value]) => {
      at(".lineage dl").append(make("dt", name), make("dd", value));
      at(".lineage").hidden = false;
    });
    [["model", "Model (GLB)"], ["photo", "Photo"], ["crop", "Crop"], ["preview", "Render"]].forEach(([key, text]) => {
      if (!p[key]) return;
      const link = make("a", text);
      link.href = p[key];
      link.setAttribute("aria-label", `${text} of ${named(p)}`);
      at(".links").append(link);
    });
    return node;
  }

  function more(count) {
    const next = found.slice(shown, shown + count);
    list.append(...next.map(drawn));
    shown += next.length;
    byId("more").hidden = shown >= found.length;
  }

  function wanted(p) {
    const show = controls.show.value;
    if (controls.category && controls.category.value && p.category !== controls.category.value) return false;
    if (show === "all") return true;
    if (show === "attention") return rank(p) < RANK.pass;
    if (show === "held" || show === "failed") return p.status === show;
    return p.verdict === show;
  }

  function refresh() {
    const words = controls.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = products.filter((p) => wanted(p) && words.every((word) => p.text.includes(word)));
    const key = controls.sort.value;
    if (key === "attention") found.sort((a, b) => rank(a) - rank(b) || a.index - b.index);
    else if (key === "sku") found.sort((a, b) => (a.sku < b.sku ? -1 : a.sku > b.sku ? 1 : 0));
    else if (key !== "catalog") found.sort((a, b) => b.sort[key] - a.sort[key] || a.index - b.index);
    list.replaceChildren();
    shown = 0;
    more(PAGE);
    byId("none").hidden = found.length > 0;
    const all = products.length.toLocaleString("en");
    byId("count").textContent = found.length === products.length ? `${all} products` : `${found.length.toLocaleString("en")} of ${all}`;
  }

  function enlarged(index) {
    if (index < 0 || index >= found.length) return;
    open = index;
    const p = found[index];
    byId("large-title").textContent = named(p);
    const pair = large.querySelector(".pair");
    pair.replaceChildren(
      picture(p.photo || p.crop, `Photo of ${named(p)}`, "Photo", true),
      picture(p.preview, `Render of the model of ${named(p)}`, "Render", true));
    if (p.views) {
      const views = picture(p.views, `The model of ${named(p)} from several sides`, "All sides", true);
      views.className = "views";
      pair.append(views);
    }
    if (!large.open) large.showModal();
  }

  function step(by) {
    const cards = [...list.children];
    const here = cards.indexOf(document.activeElement && document.activeElement.closest(".card"));
    const to = here < 0 ? (by > 0 ? 0 : -1) : here + by;
    if (to >= cards.length && shown < found.length) {
      more(PAGE);
      step(by);
    } else if (to >= 0 && to < cards.length) {
      cards[to].focus({ preventScroll: true });
      cards[to].scrollIntoView({ block: "center" });
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (large.open) {
      if (event.key === "ArrowRight") enlarged(open + 1);
      if (event.key === "ArrowLeft") enlarged(open - 1);
      return;
    }
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && event.target === controls.find) controls.find.blur();
    if (typing) return;
    if (event.key === "/") { event.preventDefault(); controls.find.focus(); }
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
    if (event.key === "Enter" && event.target.classList.contains("card")) {
      event.preventDefault();  // or the same key press would push the dialog's first button
      enlarged(found.indexOf(products[event.target.dataset.index]));
    }
  });

  let waiting = 0;
  controls.find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); });
  [controls.show, controls.category, controls.sort].forEach((control) => control && control.addEventListener("change", refresh));
  document.querySelector(".tools").addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
  byId("more").addEventListener("click", () => more(PAGE));
  byId("reset").addEventListener("click", () => {
    controls.find.value = "";
    controls.show.value = "all";
    if (controls.category) controls.category.value = "";
    refresh();
    controls.find.focus();
  });
  byId("close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  document.querySelectorAll("[data-show]").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    const p = products.find((product) => product.sku === link.dataset.show);
    controls.find.value = "";
    controls.show.value = "all";
    if (controls.category) controls.category.value = "";
    refresh();
    while (shown <= found.indexOf(p) && shown < found.length) more(PAGE);
    const target = list.children[found.indexOf(p)];
    if (target) { target.focus({ preventScroll: true }); target.scrollIntoView({ block: "center" }); }
  }));
  // Paper has no scrolling: all that was asked for is laid out before printing.
  window.addEventListener("beforeprint", () => more(found.length));
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && shown < found.length) more(PAGE);
  }, { rootMargin: "1200px" }).observe(document.querySelector(".more"));

  document.querySelector(".tools").hidden = false;
  refresh();
})();
