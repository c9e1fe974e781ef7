/**
 * A page that the kernel serves, in a cell's output.
 * @module
 */

import { escapeHtml, STYLE } from "./charts/theme.ts";

/** What a page in a cell is called, and how large it is. */
export interface FrameOptions {
  /** for who cannot see it */
  title: string;
  /** in pixels */
  height: number;
  /** one sentence that stands there while nobody serves the page */
  gone: string;
}

/** How often the output looks whether the page is still served, in ms. */
const LOOK_MS = 2000;

/**
 * HTML that shows a page of this machine as long as somebody serves it. Where the kernel has ended, or in an exported
 * page, one line stands in its place; also where scripts may not run, and on a page from another machine, which
 * cannot reach the kernel and asks nobody.
 */
export function liveFrame(url: string, { title, height, gone }: FrameOptions): string {
  const show = scriptFor({ url, title, height: `${Math.round(height)}px` });
  return `${STYLE}<div class="writebehind"><p style="margin:0;opacity:.8">${escapeHtml(gone)}</p>` +
    // The output may not be in the page yet while its scripts run; an image that cannot be loaded is heard of afterwards.
    `<img hidden alt="" src="data:," onerror="${escapeHtml(show)}"></div>`;
}

/** What the page runs. A browser that gets any answer has reached the server, though it may not read it. */
function scriptFor(frame: { url: string; title: string; height: string }): string {
  return `const f=${
    JSON.stringify(frame)
  },box=this.parentElement,line=box.firstElementChild;let page;` +
    `const look=()=>fetch(f.url,{mode:"no-cors",cache:"no-store"}).then(()=>{` +
    `if(!page){page=document.createElement("iframe");page.src=f.url;page.title=f.title;page.allowFullscreen=true;` +
    `page.style="width:100%;border:0;height:"+f.height;line.hidden=true;box.style.maxWidth="none";box.append(page)}` +
    `if(box.isConnected)setTimeout(look,${LOOK_MS})},` +
    `()=>{page?.remove();line.hidden=false});` +
    `if(["","localhost","127.0.0.1","[::1]"].includes(location.hostname)||location.protocol==="vscode-webview:")look()`;
}
