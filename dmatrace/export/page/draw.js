"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = {displaylogo: false, displayModeBar: false, scrollZoom: false};
  const width = (place) => Math.floor(place.getBoundingClientRect().width);

  // A legend below the bars takes as many lines as its names need at this width.
  const fit = (layout, wide) => {
    const size = wide < 640 ? 10 : 12;
    const fitted = {...layout, width: wide, dragmode: false, font: {size}};
    if (layout.meta) {
      const longest = Math.max(...layout.meta.legend.map((name) => name.length));
      const columns = Math.max(1, Math.floor((wide - 20) / (longest * size * 0.62 + 50)));
      const below = 52 + 1.75 * size * Math.ceil(layout.meta.legend.length / columns);
      fitted.height = layout.meta.plot + 10 + below;
      fitted.margin = {...layout.margin, b: below};
    }
    return fitted;
  };
  const draw = async (wide) => {
    for (const [id, chart] of Object.entries(charts)) {
      const place = document.getElementById(id);
      const layout = fit(chart.layout, wide || width(place));
      place.style.height = `${layout.height}px`;
      await Plotly.react(place, chart.data, layout, config);
    }
  };

  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => draw(), 150);
  });
  // A4 less its margins, at 96 dots an inch; drawn is what is printed.
  addEventListener("beforeprint", () => draw(700));
  addEventListener("afterprint", () => draw());
  draw().then(
    () => { document.documentElement.dataset.drawn = String(Object.keys(charts).length); },
    (error) => { document.documentElement.dataset.failed = String(error); },
  );
})();
