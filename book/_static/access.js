// The theme names some of its controls otherwise than they read, and one not at all. Who hears the
// page, or speaks to it, is told what the others see.
document.addEventListener("DOMContentLoaded", () => {
  const all = (selector) => document.querySelectorAll(selector);
  for (const named of all("details.hide > summary, .search-button-field")) {
    named.removeAttribute("aria-label"); // all folded cells had the same
  }
  const unnamed = (button) => {
    for (const icon of button.querySelectorAll("i, svg")) {
      icon.removeAttribute("title"); // "Light", where the button is called "Color mode"
      icon.querySelector("title")?.remove();
      icon.setAttribute("aria-hidden", "true");
    }
  };
  for (const button of all(".theme-switch-button")) {
    unnamed(button);
    const drawn = new MutationObserver(() => unnamed(button)); // icons become pictures later
    drawn.observe(button, { childList: true, subtree: true });
  }
  for (const unfolding of all(".has-children > details > summary")) {
    const page = unfolding.closest("li").querySelector("a").textContent.trim();
    unfolding.setAttribute("aria-label", `Pages of ${page}`);
  }
  all(".citation-list").forEach((list) => list.removeAttribute("role")); // its entries are no items

  // What scrolls sideways is scrolled by the arrow keys, once the keyboard has come to it.
  const reach = () => {
    for (const wide of all(".bd-article :is(pre, .pst-scrollable-table-container, div.math)")) {
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    }
  };
  reach();
  addEventListener("load", reach);
  addEventListener("resize", reach);
});
