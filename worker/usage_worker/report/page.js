
"use strict";
{
  const PRINT_WIDTH = 660; // of A4 and Letter between the margins
  const NAME_LENGTH = 60; // of a name in a chart, where no more fits
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  const short = (number) => {
    const size = [1e12, 1e9, 1e6, 1e3].find((it) => Math.abs(number) >= it) ?? 1;
    const unit = { 1e12: " T", 1e9: " B", 1e6: " M", 1e3: " k" }[size] ?? "";
    return (number / size).toLocaleString("en", { maximumSignificantDigits: 4 }) + unit;
  };
  const labels = {
    count: short,
    dollars: (number) => `$${short(number)}`,
    milliseconds: (number) => (number < 1000 ? `${short(number)} ms` : `${short(number / 1000)} s`),
  };

  const texts = (row) => [...row.cells].map((cell) => cell.textContent);
  const cut = (name) => ([...name].length > NAME_LENGTH ? `${[...name].slice(0, NAME_LENGTH).join("")}…` : name);

  // The tooltip is the row of the table. A brace would begin a style of rich text; a word joiner after it prevents that.
  const tooltip = (table) => ([point]) => {
    const [name, ...cells] = texts(table.tBodies[0].rows[point.dataIndex]);
    const [, ...headings] = texts(table.tHead.rows[0]);
    const lines = [cut(name), ...cells.map((cell, place) => `${headings[place]}: ${cell}`)];
    return lines.join("\n").replaceAll("{", "{\u2060");
  };

  const theme = (colours) => {
    const line = { lineStyle: { color: colour("line") } };
    const axis = { axisLine: line, axisTick: line, splitLine: line, axisLabel: { color: colour("muted") } };
    return {
      color: colours.map(colour),
      textStyle: { fontFamily: "system-ui, sans-serif" },
      categoryAxis: { ...axis, splitLine: { show: false } },
      valueAxis: axis,
      legend: { textStyle: { color: colour("text") } },
      tooltip: { backgroundColor: colour("card"), borderColor: colour("line"), textStyle: { color: colour("text") } },
    };
  };

  const draw = ({ name, unit, colours, option }) => {
    const box = document.querySelector(`#${name} .chart`);
    const table = document.querySelector(`#${name} table`);
    box.hidden = false;
    option.tooltip.formatter = tooltip(table);
    for (const axis of [option.xAxis, option.yAxis]) {
      if (axis.type === "value") axis.axisLabel = { formatter: labels[unit] };
      else axis.data = [...table.tBodies[0].rows].map((row) => cut(row.cells[0].textContent));
    }
    const chart = echarts.init(box, theme(colours), { renderer: "svg" });
    chart.setOption(option);
    new ResizeObserver(() => chart.resize()).observe(box);
    table.closest("details").open = false;
    return { chart, colours };
  };

  const drawn = JSON.parse(document.getElementById("charts").textContent).map(draw);
  const repaint = () => drawn.forEach(({ chart, colours }) => chart.setTheme(theme(colours)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // On paper: light, as wide as the sheet, with every table.
  let closed = [];
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((it) => { it.open = true; });
    repaint();
    drawn.forEach(({ chart }) => chart.resize({ width: PRINT_WIDTH }));
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    closed.forEach((it) => { it.open = false; });
    repaint();
    drawn.forEach(({ chart }) => chart.resize({ width: "auto" }));
  });
}
