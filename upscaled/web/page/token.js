// The server's token: asked for where one is needed, kept until the tab is closed.
import { ApiError, request, setToken, token, unauthorized } from "./api.js";
import { byId, h } from "./dom.js";
import { t } from "./text.js";

/**
 * Ask for the token whenever the server wants one.
 * @param {() => void} onToken called with every new token
 */
export function watchToken(onToken) {
  unauthorized.addEventListener("unauthorized", () => ask(onToken));
  byId("token-button").addEventListener("click", () => ask(onToken));
}

/** Show the button that changes the token, where the server wants one. */
export function showTokenButton() {
  byId("token-button").hidden = false;
  byId("token-button").textContent = t("token.button");
}

let open = false;

/** @param {() => void} onToken */
function ask(onToken) {
  if (open) return;
  open = true;
  let sending = false;
  const field = h("input", { type: "password", id: "token", required: true, autocomplete: "current-password", "aria-describedby": "token-problem" });
  const problem = h("p", { class: "problem", id: "token-problem", role: "alert" });
  const dialog = h("dialog", { class: "small", "aria-labelledby": "token-title" },
    h("form", {
      onsubmit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        if (sending) return;
        sending = true;
        const before = token();
        setToken(field.value.trim());
        try {
          await request("models");
        } catch (error) {
          setToken(before);
          problem.textContent = error instanceof ApiError ? error.message : t("connection.lost");
          field.select();
          return;
        } finally {
          sending = false;
        }
        dialog.close();
        onToken();
      },
    },
      h("h2", { id: "token-title" }, t("token.title")),
      h("p", {}, t("token.text")),
      h("label", { class: "field" }, h("span", {}, t("token.field")), field),
      problem,
      h("p", { class: "dialog-actions" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("token.later")),
        h("button", { type: "submit", class: "primary" }, t("token.use")))));
  dialog.addEventListener("close", () => {
    open = false;
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
}
