"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = {displaylogo: false, displayModeBar: false, scrollZoom: false};
  const width = (place) => Math.floor(place.getBoundingClientRect().width);

  const fit = (place, layout, wide) => {
    const narrow = wide < 640;
    place.style.height = `${layout.height}px`;
    return {
      ...layout,
      width: wide,
      dragmode: false,
      font: {...layout.font, size: narrow ? 10 : 12},
      showlegend: layout.showlegend,
    };
  };
  const draw = async (wide) => {
    for (const [id, chart] of Object.entries(charts)) {
      const place = document.getElementById(id);
      const layout = fit(place, chart.layout, wide || width(place));
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
