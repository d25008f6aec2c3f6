// The theme names some of its controls otherwise than they read, and one not at all. Who hears the
// page, or speaks to it, is told what the others see.
document.addEventListener("DOMContentLoaded", () => {
  const all = (selector) => document.querySelectorAll(selector);
  for (const named of all("details.hide > summary, .search-button-field")) {
    named.removeAttribute("aria-label"); // all folded cells had the same
  }
  for (const icon of all(".theme-switch-button :is(i, svg)")) {
    icon.removeAttribute("title"); // "Light", where the button is called "Color mode"
    icon.querySelector("title")?.remove();
    icon.setAttribute("aria-hidden", "true");
  }
  for (const unfolding of all(".has-children > details > summary")) {
    const page = unfolding.closest("li").querySelector("a").textContent.trim();
    unfolding.setAttribute("aria-label", `Pages of ${page}`);
  }
});
