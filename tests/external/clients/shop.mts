// A shop's program, on openapi-fetch and the types that openapi-typescript makes. Prints what it was told, as JSON.
// It is checked and run by test_clients.py, which puts inventory.d.ts beside it.

import { setTimeout as sleep } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { paths } from "./inventory.d.ts";

type Answer<T> = { data?: T; error?: { message: string }; response: Response };

const client = createClient<paths>({ baseUrl: process.argv[2] });

// What was asked for; stops with the service's own words if it was refused.
async function ok<T>(asked: Promise<Answer<T>>): Promise<T> {
  const { data, error } = await asked;
  if (data === undefined) throw new Error(error?.message);
  return data;
}

// All rows, page by page. A feed has its end where a page is empty, once what is expected has come: on PostgreSQL it
// holds rows back until older transactions have ended, whoever's they are.
async function follow<T>(
  read: (place?: string) => Promise<Answer<T[]>>,
  parameter: string,
  expected = 0,
): Promise<T[]> {
  const rows: T[] = [];
  const deadline = Date.now() + 60_000;
  let place: string | undefined;
  while (true) {
    const page = read(place);
    const fresh = await ok(page);
    rows.push(...fresh);
    const following = (await page).response.headers.get("Link")?.match(/<([^>]*)>; rel="next"/)?.[1];
    if (!following || (fresh.length === 0 && (rows.length >= expected || Date.now() > deadline))) return rows;
    place = new URL(following).searchParams.get(parameter) ?? undefined;
    if (fresh.length === 0) await sleep(100);
  }
}

// The answer, and how often it was lost before it came: the same request goes again with the same key.
async function sell(product_id: number, quantity: number, key?: string) {
  for (let lost = 0; lost < 3; lost++) {
    try {
      const answer = await client.POST("/transactions", {
        params: { header: { "Idempotency-Key": key } },
        body: { product_id, transaction_type: "sale", quantity },
      });
      return { answer, lost };
    } catch (failure) {
      if (!(failure instanceof TypeError)) throw failure; // fetch's word for a broken connection
    }
  }
  throw new Error("three answers were lost");
}

function create(sku: string, quantity_on_hand: number, category_id: number) {
  return ok(client.POST("/products", { body: { sku, name: sku, price: 10, quantity_on_hand, category_id } }));
}

const bolts = await ok(client.POST("/categories", { body: { name: "Bolts" } }));
const bolt = await create("BOLT-6", 50, bolts.id);
for (const size of [8, 10, 12, 16]) await create(`BOLT-${size}`, 50, bolts.id);
const nut = await create("NUT-6", 0, bolts.id);
await client.DELETE("/products/{product_id}", { params: { path: { product_id: nut.id } } });

const imported = await ok(
  client.POST("/import/products", {
    body: { file: "sku,name,price,category\nWASHER-6,Washer,0.25,Bolts\n" },
    bodySerializer: (body) => {
      const form = new FormData();
      form.append("file", typeof body === "string" ? body : body.file);
      return form;
    },
  }),
);
const one = { params: { path: { product_id: bolt.id } } };
const edited = await ok(client.PATCH("/products/{product_id}", { ...one, body: { price: 11.5 } }));
const { answer, lost } = await sell(bolt.id, 5, "order-1");
const sale = await ok(Promise.resolve(answer));
const refusal = (await sell(bolt.id, 46)).answer.error;
const listed = await follow(
  (cursor) => client.GET("/products", { params: { query: { limit: 2, cursor } } }),
  "cursor",
);
const ledger = await follow(
  (after) => client.GET("/transactions/feed", { params: { query: { limit: 2, after } } }),
  "after",
  6,
);
const catalogue = await follow(
  (after) => client.GET("/products/feed", { params: { query: { limit: 2, after } } }),
  "after",
  7,
);
const told = {
  edited: [edited.price, edited.quantity_on_hand],
  sale: [sale.delta, sale.balance_after],
  lost,
  replayed: answer.response.headers.get("Idempotent-Replayed"),
  available: refusal?.error === "insufficient_stock" ? refusal.details.available : refusal,
  created: imported.created,
  listed: listed.map((product) => product.id),
  ledger: ledger.map((row) => row.id),
  catalogue: catalogue.map((entry) => [entry.id, "deleted" in entry]),
};
console.log(JSON.stringify(told));
