"""A figure as SVG that can stand in a page: no styles, no ids but our own, colours of the page, words for everybody."""

import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from accupoison.study.pictures import Picture, drawing

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
OURS = re.compile(r"s(\d+)(p\d+)?$")
"""Ids of artists, see :meth:`accupoison.study.pictures.Picture.mark`."""
REFERENCE = re.compile(r"#([\w-]+)")
INK = {"#000000": "currentColor", "black": "currentColor"}


def inline_svg(picture: Picture) -> str:
    """Return a picture as an ``svg`` element without its legend, named and described, its series marked for a script.

    Nothing in it is a style: a page's policy forbids those that it does not know. The script finds the artists of
    series k by ``data-series="k"``, and what a point says in its ``title``.
    """
    file = io.BytesIO()
    with drawing(picture.name):
        picture.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(file.getvalue())
    _drop(root, {f"{{{SVG}}}metadata", f"{{{SVG}}}style"})
    for element in root.iter():
        _unstyle(element)
    _mark(root, picture)
    _rename(root, picture.name)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{picture.name}-title {picture.name}-desc"}
    for place, (tag, text) in enumerate((("title", picture.title), ("desc", picture.alt))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{picture.name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode")


def _drop(root: ET.Element, tags: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _unstyle(element: ET.Element) -> None:
    """Turn the style of an element into attributes; the font's family is the page's."""
    for key, value in _declarations(element.attrib.pop("style", "")):
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size[1] if size else "9")
        else:
            element.set(key, INK.get(value, value))
    if INK.get(element.get("fill", "")):
        element.set("fill", "currentColor")


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    for part in style.split(";"):
        key, colon, value = part.partition(":")
        if colon:
            yield key.strip(), value.strip()


def _mark(root: ET.Element, picture: Picture) -> None:
    """Name the artists of each series, and let their points say their values."""
    for element in root.iter():
        if found := OURS.match(element.get("id", "")):
            element.set("data-series", found[1])
            points = list(element.iter(f"{{{SVG}}}use")) or list(element.iter(f"{{{SVG}}}path"))
            for point, tip in zip(points, picture.tips.get(element.get("id", ""), ()), strict=False):
                ET.SubElement(point, f"{{{SVG}}}title").text = tip


def _rename(root: ET.Element, name: str) -> None:
    """Drop the ids that nothing refers to, and begin the others with the figure's name: a page has several figures."""
    used = {one for element in root.iter() for value in element.attrib.values() for one in REFERENCE.findall(value)}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib[key]
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif (value.startswith("#") and "href" in key) or value.startswith("url("):
                element.set(key, REFERENCE.sub(rf"#{name}-\1", value))
