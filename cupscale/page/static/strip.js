const list = element.querySelector("ul");

function show() {
  list.replaceChildren(...(props.value || []).map((example) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const image = document.createElement("img"), title = document.createElement("span");
    button.type = "button";
    image.src = example.thumb;
    image.alt = "";
    image.draggable = false;
    title.textContent = example.title;
    button.append(image, title);
    button.addEventListener("click", () => trigger("chosen", { name: example.name }));
    item.append(button);
    return item;
  }));
}

watch("value", show);
show();
