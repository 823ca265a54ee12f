document.title = "An application, running";
