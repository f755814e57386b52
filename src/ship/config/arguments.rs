//! Arguments for ComfyUI that no snapshot can be served with: what stillframe sets itself, and what names files or a
//! download of the workstation.
use super::wrong::{Wrong, wrong};
use crate::protocol::launch;

/// Flags whose value lies outside what is captured, and what to do instead; before those of `launch::FLAGS`.
const OUTSIDE: [(&str, &str); 4] = [
    (
        "--base-directory",
        "which stillframe sets itself: packs and models of another folder are captured where extra_model_paths.yaml names them",
    ),
    (
        launch::EXTRA_MODELS,
        "which names a file that no snapshot has: name it extra_model_paths.yaml, beside main.py, where ComfyUI reads it by itself",
    ),
    (
        "--front-end-root",
        "which names a folder that no snapshot has: install the front end into the environment (comfyui-frontend-package)",
    ),
    (
        "--front-end-version",
        "which downloads a front end when the server starts: install that version of comfyui-frontend-package into the environment",
    ),
];

/// Refuses such a flag, also where it is cut short: argparse takes `--base-dir` for `--base-directory`.
pub fn check(arguments: &[String]) -> Result<(), Wrong> {
    for argument in arguments {
        let flag = argument.split('=').next().unwrap_or(argument);
        if !flag.starts_with("--") || flag.len() < 4 {
            continue;
        }
        let why = if let Some((_, why)) = OUTSIDE.iter().find(|(outside, _)| outside.starts_with(flag)) {
            (*why).to_string()
        } else if let Some((own, _)) = launch::FLAGS.iter().find(|(own, _)| own.starts_with(flag)) {
            format!("which stillframe sets itself ({own})")
        } else {
            continue;
        };
        return Err(wrong("service.arguments", format!("has {flag:?}, {why}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_a_snapshot_cannot_have_is_refused_however_it_is_written() {
        let said = |text: &str| {
            let arguments: Vec<String> = text.split(' ').map(String::from).collect();
            check(&arguments).err().map(|wrong| wrong.to_string()).unwrap_or_default()
        };
        for text in [
            "--cpu --lowvram",
            "--preview-method auto",
            "--enable-cors-header *",
            "--multi-user",
            "--fast fp16",
        ] {
            assert_eq!(said(text), "", "{text}");
        }
        for flag in crate::protocol::launch::FLAGS
            .iter()
            .map(|(flag, _)| *flag)
            .chain(super::OUTSIDE.map(|(flag, _)| flag))
        {
            for text in [format!("--cpu {flag} /x"), format!("{flag}=/x"), flag[..flag.len() - 1].to_string()]
            {
                assert!(said(&text).starts_with("service.arguments has \"--"), "{text}");
            }
        }
        assert!(said("--base-dir /x").contains("extra_model_paths.yaml"));
        assert!(said("--port 9000").ends_with("which stillframe sets itself (--port)"));
        assert!(said("--front-end-version Comfy-Org/ComfyUI_frontend@latest").contains("downloads"));
    }
}
