// Makes elements of text alone: nothing here, or anywhere else, parses HTML.

/** An element with these properties and children; `class`, `data-…` and `aria-…` are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Sets the text if it differs, so that a table with hundreds of rows costs little. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const FIGURES = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: true });
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** The number with three digits, or all of those before the point if they are more. */
export const figure = (value) => (Math.abs(value) >= 1000 ? WHOLE : FIGURES).format(value);
