// Runs before the first paint, so that a chosen theme does not flash. Without a choice the system's holds.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("mc-theme"); } catch { /* storage is off: the system's theme holds */ }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
