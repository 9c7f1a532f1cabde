import os, sys
from pathlib import Path
import pytest

OUT=Path("/tmp/shots"); OUT.mkdir(exist_ok=True)

def shoot(browser, url, name, full=True):
    for scheme in ("light","dark"):
        for width in (1280, 360):
            tab=browser.new_page(viewport={"width":width,"height":900}, color_scheme=scheme)
            msgs=[]
            tab.on("console", lambda m: msgs.append(m.text)); tab.on("pageerror", lambda e: msgs.append(str(e)))
            tab.goto(url); 
            if msgs: print(name, msgs)
            w=tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            if w[0]>w[1]: print("OVERFLOW",name,width,w)
            for d in tab.query_selector_all("details")[:2]: d.evaluate("e=>e.open=true")
            tab.screenshot(path=OUT/f"{name}-{scheme}-{width}.png", full_page=full)
            tab.close()

def test_shots(filled, browser, tmp_path):
    site=filled
    run=site.start_run("apples"); st=site.claim(run); st.progress(range(61), 200); st.log("stdout","compiling\n"+"step 1 loss 2.3\n"*30); st.log("stderr","warning: slow\n")
    runs=site.get("/api/v1/runs").json()["items"]
    done=[r for r in runs if r["state"]=="succeeded"]
    ev=site.get("/api/v1/evaluations").json()["items"]
    ds=site.get("/api/v1/datasets").json()["items"][0]["dataset_id"]
    pages={"home":"/","traces":"/traces","datasets":"/datasets","dataset":f"/datasets/{ds}","runs":"/runs","run-live":f"/runs/{run}","run-done":f"/runs/{done[1]['run_id']}","run-failed":f"/runs/{[r for r in runs if r['state']=='failed'][0]['run_id']}","evaluation":f"/evaluations/{ev[1]['evaluation_id']}","leaderboard":"/leaderboard","models":"/models","model":"/models/apples","missing":"/runs/x"}
    for name,path in pages.items():
        r=site.get(path); print(name, r.status, len(r.text))
        if r.status>=500: print(r.text[-800:])
        shoot(browser, site.url+path, name)

def test_empty(site, browser):
    for n in ("","traces","datasets","runs","leaderboard","models"):
        shoot(browser, site.url+"/"+n, "empty-"+(n or "home"))
