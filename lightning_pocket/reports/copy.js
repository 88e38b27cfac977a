/* Gives every `pre.code` a button that copies its text. */
(() => {
  "use strict";
  for (const block of document.querySelectorAll("pre.code")) {
    const frame = Object.assign(document.createElement("div"), {className: "copyable"});
    const button = Object.assign(document.createElement("button"), {className: "copy", type: "button", textContent: "Copy"});
    const say = (text) => {
      button.textContent = text;
      setTimeout(() => (button.textContent = "Copy"), 2000);
    };
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(block.textContent);
        say("Copied");
      } catch {
        getSelection().selectAllChildren(block); // where a browser does not let pages write to the clipboard
        say("Press Ctrl + C");
      }
    });
    block.replaceWith(frame);
    frame.append(block, button);
  }
})();
