/**
 * The cluster's charts, drawn by uPlot: a card each, with its newest numbers as text beside the
 * picture, or those under the pointer.
 */

// With the page, not when it is first wanted: the server may be away then.
import Plot from '../vendor/uplot/uplot.js';
import { element, rounded, setText } from './dom.js';
import { SHOWN_SECONDS } from './history.js';

const HEIGHT = 118;
const FONT = '11px system-ui, sans-serif';

/** Values of a series are shown by `format`; `floor` is the least that the axis goes up to. */
const CHARTS = [
  {
    key: 'events',
    title: 'Events',
    about: 'From the log or with a notification, a second',
    floor: 5,
    format: perSecond,
    series: [{ name: 'events', colour: '--accent', filled: true }],
  },
  {
    key: 'deliveries',
    title: 'Deliveries',
    about: 'Events times the sockets they went to, a second',
    floor: 5,
    format: perSecond,
    series: [{ name: 'deliveries', colour: '--teal', filled: true }],
  },
  {
    key: 'latency',
    title: 'Latency',
    about: 'From the row to the last of its sockets',
    floor: 0.01,
    format: milliseconds,
    series: [
      { name: 'p50', label: 'p50', colour: '--green' },
      { name: 'p99', label: 'p99', colour: '--pink' },
    ],
  },
  {
    key: 'sockets',
    title: 'Sockets',
    about: 'Open sockets, by what they watch',
    floor: 4,
    format: whole,
    series: [
      { name: 'chats', label: 'one bot', colour: '--blue', filled: true },
      { name: 'multi', label: 'many', colour: '--green' },
      { name: 'notifications', label: 'notifications', colour: '--pink' },
    ],
  },
  {
    key: 'doorbell',
    title: 'Doorbell',
    about: 'Processes that wait for a ring, or read again and again',
    floor: 1,
    format: whole,
    stacked: true,
    series: [
      { name: 'asleep', label: 'asleep', colour: '--green' },
      { name: 'awake', label: 'awake', colour: '--amber' },
      { name: 'fenced', label: 'fenced', colour: '--violet' },
      { name: 'polling', label: 'polling', colour: '--red' },
    ],
  },
];

/** Make all charts in a box. */
export function makeCharts(box, history) {
  const charts = CHARTS.map((chart) => new Chart(chart, history));
  box.prepend(...charts.map(({ card }) => card));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () =>
    charts.forEach((chart) => chart.draw()),
  );
  return charts;
}

class Chart {
  card;
  #chart;
  #history;
  #values;
  #plot;

  constructor(chart, history) {
    this.#chart = chart;
    this.#history = history;
    this.#values = chart.series.map(() => element('b', { text: '—' }));
    const box = element('div', { class: 'plot', 'aria-hidden': 'true' });
    this.card = element(
      'article',
      { class: 'card chart', 'data-chart': chart.key },
      element('header', {}, element('h3', { text: chart.title }), this.#legend()),
      element('p', { class: 'quiet small', text: chart.about }),
      box,
    );
    const steps = Plot.paths.stepped({ align: -1 });
    this.#plot = new Plot(this.#options(box, steps), this.#data(), box);
    new ResizeObserver(() => this.#fit(box)).observe(box);
  }

  draw() {
    this.#plot.setData(this.#data());
    this.#show();
  }

  #legend() {
    const entries = this.#chart.series.map(({ name, label, colour }, index) => {
      const entry = element('span', { 'data-series': name });
      if (label) {
        const swatch = element('i', { class: 'swatch' });
        swatch.style.setProperty(
          '--swatch',
          this.#chart.stacked ? muted(`var(${colour})`) : `var(${colour})`,
        );
        entry.append(swatch, `${label} `);
      }
      entry.append(this.#values[index]);
      return entry;
    });
    return element('p', { class: 'legend number' }, ...entries);
  }

  #data() {
    const rows = this.#chart.series.map(({ name }) => this.#history.series(name));
    return [this.#history.times, ...(this.#chart.stacked ? stack(rows) : rows)];
  }

  /** The numbers of the time under the pointer, else the newest. */
  #show() {
    const index = this.#plot.cursor.idx ?? this.#history.times.length - 1;
    for (const [place, { name }] of this.#chart.series.entries()) {
      const value = this.#history.series(name)[index] ?? null;
      setText(this.#values[place], value === null ? '—' : this.#chart.format(value));
    }
  }

  #fit(box) {
    if (box.clientWidth > 0) this.#plot.setSize({ width: box.clientWidth, height: HEIGHT });
  }

  #options(box, steps) {
    const { series, floor, format, stacked } = this.#chart;
    const colours = () => getComputedStyle(box);
    return {
      width: Math.max(box.clientWidth, 200),
      height: HEIGHT,
      padding: [8, 6, 0, 0],
      legend: { show: false },
      // One pointer for all charts: what happened then, in each of them.
      cursor: { sync: { key: 'cluster' }, y: false, drag: { x: false, y: false } },
      scales: { x: { range: latest }, y: { range: (_, __, most) => upTo(floor, most) } },
      axes: [timeAxis(colours), valueAxis(colours, format)],
      series: [{}, ...paint(series, stacked, colours, steps)],
      hooks: { setCursor: [() => this.#plot && this.#show()] },
    };
  }
}

function latest() {
  const now = Date.now() / 1000;
  return [now - SHOWN_SECONDS, now];
}

function upTo(floor, most) {
  return [0, Math.max(floor, (most ?? 0) * 1.08)];
}

function timeAxis(colours) {
  return {
    ...axis(colours),
    size: 22,
    incrs: [30],
    // A label at the edge would be cut in two.
    values: (_, times) => times.map((time) => (time > latest()[1] - 10 ? '' : clockOf(time))),
    grid: { show: false },
  };
}

function valueAxis(colours, format) {
  return {
    ...axis(colours),
    size: 52,
    space: 30,
    values: (_, values) => values.map((value) => format(value)),
  };
}

/** Colours are asked for at every drawing: the reader's scheme may have changed. */
function axis(colours) {
  const line = () => colours().getPropertyValue('--line');
  return {
    font: FONT,
    stroke: () => colours().getPropertyValue('--quiet'),
    grid: { stroke: line, width: 1 },
    ticks: { show: false },
    gap: 6,
  };
}

/** `paths` of the stacked: a process is in one mode or another, and in none between. */
function paint(series, stacked, colours, paths) {
  const painted = series.map(({ colour, filled }) => {
    const plain = () => colours().getPropertyValue(colour).trim();
    const soft = () => `${plain()}26`;
    return {
      stroke: plain,
      width: 1.6,
      points: { show: false },
      ...(filled ? { fill: soft } : {}),
      ...(stacked
        ? { width: 0, fill: () => muted(plain(), colours().getPropertyValue('--surface')), paths }
        : {}),
    };
  });
  return stacked ? painted.toReversed() : painted;
}

/** For large areas. */
function muted(colour, surface = 'var(--surface)') {
  return `color-mix(in srgb, ${colour} 62%, ${surface})`;
}

/** Each row upon those before it, the highest first: the lower are painted over it. */
function stack(rows) {
  const sums = [];
  for (const row of rows) {
    const below = sums.at(-1);
    sums.push(row.map((value, index) => (value === null ? null : value + (below?.[index] ?? 0))));
  }
  return sums.toReversed();
}

function clockOf(time) {
  return new Date(time * 1000).toLocaleTimeString([], { hour12: false });
}

export function perSecond(value) {
  return value < 1_000 ? `${rounded(value)}/s` : `${rounded(value / 1_000)} k/s`;
}

export function milliseconds(value) {
  return value < 1 ? `${rounded(value * 1_000)} ms` : `${rounded(value)} s`;
}

/** Half a process is none: such lines of the grid have no number. */
function whole(value) {
  return Number.isInteger(value) ? value.toLocaleString('en') : '';
}
