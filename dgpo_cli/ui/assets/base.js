
"use strict";
// The button between light and dark. Without a choice the page follows the system.
(() => {
  const button = document.getElementById("theme");
  if (!button) return;
  const root = document.documentElement;
  const key = "dgpo-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const other = () => (now() === "dark" ? "light" : "dark");
  const show = () => {
    button.textContent = other() === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to the ${other()} colours`);
  };
  try {
    const kept = localStorage.getItem(key);
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch { /* no storage for this page: the choice lasts as long as the page */ }
  button.addEventListener("click", () => {
    root.dataset.theme = other();
    try {
      localStorage.setItem(key, root.dataset.theme);
    } catch { /* as above */ }
    show();
  });
  dark.addEventListener("change", show);
  button.hidden = false;
  show();
})();
