// A field above each table in <div class="searchable"> that leaves the rows with all its words.
document$.subscribe(() => {
  for (const box of document.querySelectorAll("div.searchable")) {
    const rows = [...box.querySelectorAll("tbody tr")];
    const field = document.createElement("input");
    const count = document.createElement("span");
    Object.assign(field, { type: "search", placeholder: "Search this table", className: "searchable__field" });
    field.setAttribute("aria-label", "Search this table");
    count.setAttribute("aria-live", "polite");
    const filter = () => {
      const words = field.value.toLowerCase().split(/\s+/);
      for (const row of rows) {
        row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      }
      count.textContent = ` ${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    field.addEventListener("input", filter);
    box.prepend(field, count);
    filter();
  }
});
